"""Linear attention.

Softmax attention compares every query with every key: twice the text, four
times the work. But suppose that the similarity of a query and a key were a dot
product of something made of the query alone with something made of the key
alone. Then all keys and values could be summed up once, before any query asks:
the work grows with the length and not with its square, and a model that writes
needs a memory of fixed size instead of a cache that grows.

Write attention with such a similarity, for all tokens and causal; its form as
a recurrent network, one token at a time; and the random features with which
the Performer brings it near to softmax attention.

B batch, H heads, L query length, S key length, D size of queries and keys,
Dv size of values, R random features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    """Attention whose weights are products of features: of phi(q_i) · phi(k_j), with phi(x) = elu(x) + 1.

    Args:
        q: (B, H, L, D).
        k: (B, H, S, D).
        v: (B, H, S, Dv).
        eps: is added to the sum of the weights, by which is divided.

    Returns:
        (B, H, L, Dv), of the inputs' dtype: for query i, with sums over all keys j,

            sum of phi(q_i) · phi(k_j) v_j  /  (sum of phi(q_i) · phi(k_j)  +  eps).

        Nothing is scaled by √D. Operations and the largest tensor grow in
        proportion to L + S. Gradients flow to q, k and v, also where an input is
        1000 or more. Inputs are left as they are.

    Source: Katharopoulos et al. 2020, "Transformers are RNNs", section 3.2.

    >>> q, k = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 0.0], [1.0, 3.0]]]])
    >>> linear_attention(q, k, torch.tensor([[[[8.0], [0.0]]]]), eps=0.0)  # weights 2 : 6
    tensor([[[[2.]]]])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def causal_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    """Linear attention in which each token sees itself and the tokens before it.

    Args:
        q, k: (B, H, L, D).
        v: (B, H, L, Dv).
        eps: as in linear_attention.

    Returns:
        (B, H, L, Dv): as linear_attention, with both sums over the keys j ≤ i.
        Operations and the largest tensor grow in proportion to L. That is
        counted with 128 tokens and with 384: who works in chunks takes at most
        128 tokens for one. Gradients flow to q, k and v.

    Source: Katharopoulos et al. 2020, "Transformers are RNNs", section 3.3.

    >>> x = torch.zeros(1, 1, 3, 2)
    >>> causal_linear_attention(x, x, torch.tensor([[[[3.0], [5.0], [10.0]]]]), eps=0.0).flatten()
    tensor([3., 4., 6.])
    """
    # TODO: write it as described above.
    raise NotImplementedError


class LinearState:
    """Causal linear attention as a recurrent network: all that it keeps of the past has a fixed size.

    Args:
        batch, num_heads, dim, value_dim: B, H, D, Dv.
        dtype: of the sums that are kept, whatever dtype the tokens have.
        eps: as in linear_attention.

    Source: Katharopoulos et al. 2020, "Transformers are RNNs", section 3.4.

    >>> state = LinearState(1, 1, 2, 1)
    >>> [round(state.step(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.full((1, 1, 1), x)).item()) for x in (3.0, 5.0, 10.0)]
    [3, 4, 6]
    """

    def __init__(self, batch: int, num_heads: int, dim: int, value_dim: int, dtype: torch.dtype = torch.float32, eps: float = 1e-6):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Take in one token, and attend from it to all tokens so far, itself included.

        Args:
            q, k: (B, H, D).
            v: (B, H, Dv).

        Returns:
            (B, H, Dv), of v's dtype: what causal_linear_attention gives for this
            token. A step costs the same, however many came before, and keeps no
            graph: if inputs require gradients, results of later steps do not
            require them for that. States do not share anything.
        """
        # TODO: write it as described above.
        raise NotImplementedError


def orthogonal_features(dim: int, num_features: int, generator: torch.Generator) -> Tensor:
    """Random directions for performer_attention that spread out more evenly than independent ones.

    Args:
        dim: D.
        num_features: R, any number from 1; need not be a multiple of D.
        generator: all randomness comes from it, and the same seed gives the
            same features; PyTorch's global generator is left alone.

    Returns:
        (R, D), float32. Rows 0 to D - 1 are orthogonal to each other, so are the
        next D, and so on; the last block may have fewer rows. Each block is
        rotated at random, independently of the others. Each row for itself is
        distributed as a vector of D independent standard normal numbers: w and
        -w are equally likely, and its norm is drawn as the norm of such a
        vector, independently of the other rows and of the directions.

    Source: Choromanski et al. 2021, "Rethinking Attention with Performers", section 2.4.

    >>> w = orthogonal_features(3, 5, torch.Generator().manual_seed(0))
    >>> w.shape, bool((w[0] @ w[1]).abs() < 1e-5)
    (torch.Size([5, 3]), True)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def performer_attention(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, causal: bool = False) -> Tensor:
    """Linear attention with positive random features, which comes near to softmax attention.

    Args:
        q: (B, H, L, D).
        k: (B, H, S, D).
        v: (B, H, S, Dv).
        projection: (R, D), a random vector w_r in each row.
        causal: each query sees only the keys up to its own place; then L = S.

    Returns:
        (B, H, L, Dv): as linear_attention, without eps, and with the features

            phi_r(x) = exp(w_r · x' - |x'|² / 2) / √R,   x' = x / D^(1/4),

        for queries and keys. In expectation over w_r, standard normal,
        phi(q) · phi(k) is exp(q · k / √D). Operations and the largest tensor grow
        in proportion to L + S, counted as in causal_linear_attention.

        All features of a token may be so small that they underflow, as where
        |x|² is several thousand: scale them by factors that cancel exactly in
        the quotient. With causal, the exponents of the keys of a sequence may
        be taken to lie within 50 of each other. Gradients flow to q, k and v.

    Source: Choromanski et al. 2021, "Rethinking Attention with Performers", sections 2.2 and 2.3.

    >>> generator = torch.Generator().manual_seed(0)
    >>> q, k, v = torch.randn(3, 1, 1, 4, 2, generator=generator)
    >>> out = performer_attention(q, k, v, orthogonal_features(2, 4096, generator))
    >>> torch.allclose(out, F.scaled_dot_product_attention(q, k, v), atol=0.1)
    True
    """
    # TODO: write it as described above.
    raise NotImplementedError
