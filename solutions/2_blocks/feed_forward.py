"""Feed-forward network.

Attention carries information from token to token; the feed-forward network
then works on each token by itself: up to a wider hidden layer, through an
activation, and down again. Two thirds of the weights of a Transformer block
stand here. The original has ReLU, BERT and GPT-2 have GELU, Llama gates one
projection with the SiLU of another.

Write the activations, the classic network, the gated one, and the rule by
which Llama chooses its hidden size.

M model size (d_model); `...` stands for any number of leading axes, none
included. No function changes its arguments.
"""

import math

import torch
from torch import Tensor, nn


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x, weighted with the probability that a standard normal number is below it.

    Args:
        x: any shape, floating point.
        approximate: "none" for x · Φ(x), Φ being the distribution function of
            the standard normal; "tanh" for the paper's approximation of it by
            a tanh, which GPT-2 uses. The two differ by up to 0.0005, near
            x = 2.7 and x = -2.7.

    Returns:
        Shape and dtype of x. The values are right for numbers as
        large as 1e4 and -1e4, in float32 too.

    Raises:
        ValueError: approximate is neither "none" nor "tanh".

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.

    >>> gelu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1587,  0.0000,  0.8413])
    >>> gelu(torch.tensor([-1.0, 0.0, 1.0]), approximate="tanh")
    tensor([-0.1588,  0.0000,  0.8412])
    """
    if approximate == "none":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + torch.tanh(inner))
    raise ValueError(f"approximate must be 'none' or 'tanh', not {approximate!r}")


def silu(x: Tensor) -> Tensor:
    """x · σ(x), σ being the logistic function; also known as swish.

    Args:
        x: any shape, floating point.

    Returns:
        Shape and dtype of x. The values are right for numbers as
        large as 1e4 and -1e4, in float32 too.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.

    >>> silu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.2689,  0.0000,  0.7311])
    """
    return x * torch.sigmoid(x)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, for each token by itself.

    Its parameters are those of `up` and `down`, and no others.

    Args:
        d_model: channels of a token, M.
        d_hidden: channels between the two layers.
        dropout: with this probability p, 0 <= p < 1, each number that comes
            out of the activation is set to zero in training, by itself and
            anew at every call; the others are divided by 1 - p. In evaluation
            nothing is dropped.
        activation: "relu" or "gelu", the latter in its exact form.

    Attributes:
        up: nn.Linear from M to d_hidden channels, with bias.
        down: nn.Linear from d_hidden to M channels, with bias.

    Raises:
        ValueError: activation has another name. It is raised when the module
            is called, at the latest.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.3;
    dropout as in PyTorch's nn.TransformerEncoderLayer.

    >>> network = FeedForward(d_model=4, d_hidden=16, dropout=0.1)
    >>> network(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, d_model: int, d_hidden: int, dropout: float = 0.0, activation: str = "relu"):
        super().__init__()
        activations = {"relu": torch.relu, "gelu": gelu}
        if activation not in activations:
            raise ValueError(f"activation must be one of {', '.join(activations)}, not {activation!r}")
        self.activation = activations[activation]
        self.up = nn.Linear(d_model, d_hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token.

        Args:
            x: (..., M), of the parameters' dtype, whichever it is.

        Returns:
            (..., M), dtype of x. There is no residual connection in here.
        """
        hidden = self.activation(self.up(x))
        return self.down(self.dropout(hidden))


class SwiGLU(nn.Module):
    """A feed-forward network whose hidden layer is gated.

    The silu of one projection, `gate`, multiplies another, `up`, number by
    number; `down` brings the product back to M channels. Its parameters are
    the weights of the three, and no others: there are no biases.

    Args:
        d_model: channels of a token, M.
        d_hidden: channels of the hidden layer.

    Attributes:
        gate, up: nn.Linear from M to d_hidden channels, without bias.
        down: nn.Linear from d_hidden to M channels, without bias.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", section 2;
    Touvron et al. 2023, "LLaMA", section 2.2.

    >>> network = SwiGLU(d_model=4, d_hidden=16)
    >>> network(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token.

        Args:
            x: (..., M), of the parameters' dtype, whichever it is.

        Returns:
            (..., M), dtype of x.
        """
        hidden = silu(self.gate(x)) * self.up(x)
        return self.down(hidden)


def swiglu_hidden(d_model: int, multiple_of: int = 256) -> int:
    """The hidden size of a SwiGLU that has as many weights as a classic network of hidden size 4 · d_model.

    With three matrices in place of two that is 8 · d_model / 3, which is then
    rounded up to a size that hardware likes.

    Args:
        d_model: channels of a token, at least 1.
        multiple_of: 8, or a multiple of 8.

    Returns:
        The smallest multiple of multiple_of that is not below
        8 · d_model / 3, an int.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", section 2;
    Touvron et al. 2023, "LLaMA", section 2.2.

    >>> swiglu_hidden(4096)  # Llama 7B
    11008
    """
    blocks = -(-8 * d_model // (3 * multiple_of))  # // rounds down; of the negative number, that is up
    return blocks * multiple_of
