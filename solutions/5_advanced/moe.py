"""Mixture of experts.

A feed-forward layer makes every token pay for all of its weights. Here it is
split into experts, and a router sends each token to the few that suit it
best: the parameters grow with the number of experts, the work for a token
does not. The price: the router may come to send everything to one expert, its
logits may grow without bound, and the machine that holds an expert has room
for so many tokens and no more. Write the routing, the two losses that keep
the router in check, the rule of who is dropped when an expert is full, and
the layer, which computes what was routed and nothing else.

T tokens, E experts, k of them chosen for each token, B batch, L length, M size
of the model. An assignment is one of the T·k pairs of a token and an expert
chosen for it; its column in `experts` is its slot, the best expert's first.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def top_k_routing(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Choose the k experts with the largest logits for each token, and their weights.

    Args:
        logits: scores of the experts, (T, E), of any magnitude.
        k: experts for each token, from 1 to E.

    Returns:
        weights: (T, k), dtype of logits: the softmax over the k chosen logits
            alone, so that they sum to one. With k = 1 the weight is 1.
        experts: (T, k) int64, numbers from 0 to E - 1, best first.

    Raises:
        ValueError: k is less than 1 or more than E.

    Source: Jiang et al. 2024, "Mixtral of Experts", section 2.1.

    >>> weights, experts = top_k_routing(torch.tensor([[0.0, 5.0, 1.0, 5.5]]), k=2)
    >>> weights, experts
    (tensor([[0.6225, 0.3775]]), tensor([[3, 1]]))
    """
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError(f"k must be from 1 to {E}, the number of experts, not {k}")
    best, experts = logits.topk(k, dim=-1)
    return best.softmax(dim=-1), experts


def load_balancing_loss(logits: Tensor, experts: Tensor) -> Tensor:
    """E · Σ f·P over the experts: small when the load is spread evenly.

    f is the share of all T·k assignments that an expert received; P is the
    mean over the tokens of its probability in the softmax over all E logits.
    A router that gives all experts the same probability has the loss 1.

    Args:
        logits: scores of the experts, (T, E), of any magnitude.
        experts: what was chosen, (T, k) integers; an expert may be missing.

    Returns:
        A scalar, dtype of logits. Its gradient flows through P; f is counted.

    Source: Fedus et al. 2021, "Switch Transformers", section 2.2, without its
    coefficient, and for k experts a token.

    >>> load_balancing_loss(torch.zeros(2, 4), torch.tensor([[0, 1], [0, 3]]))
    tensor(1.)
    """
    E = logits.shape[-1]
    counts = torch.bincount(experts.flatten(), minlength=E)
    share = counts.to(logits.dtype) / experts.numel()
    probability = logits.softmax(dim=-1).mean(dim=0)
    return E * (share * probability).sum()


def router_z_loss(logits: Tensor) -> Tensor:
    """The mean over the tokens of the squared logsumexp of their logits.

    The softmax does not see it when all logits of a token grow together; this
    loss does.

    Args:
        logits: scores of the experts, (T, E), of any magnitude.

    Returns:
        A scalar, dtype of logits.

    Source: Zoph et al. 2022, "ST-MoE", section 3.3, equation 5.

    >>> router_z_loss(torch.tensor([[0.0, 0.0], [3.0, 3.0]]))
    tensor(7.0599)
    """
    return logits.logsumexp(dim=-1).square().mean()


def expert_capacity(num_tokens: int, num_experts: int, k: int, capacity_factor: float) -> int:
    """How many assignments one expert takes: capacity_factor · T · k / E, rounded up.

    Args:
        num_tokens: T, counted over the whole batch.
        num_experts: E.
        k: experts for each token.
        capacity_factor: 1 is just enough if the load is even; more leaves room.

    Returns:
        An int.

    Source: Fedus et al. 2021, "Switch Transformers", section 2.2, there for
    k = 1; Lepikhin et al. 2020, "GShard", section 2.2.

    >>> expert_capacity(num_tokens=10, num_experts=4, k=2, capacity_factor=1.25)
    7
    """
    return math.ceil(capacity_factor * num_tokens * k / num_experts)


def dispatch_mask(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    """Which assignments are kept when an expert takes `capacity` of them at most.

    Each expert is filled by itself: all tokens' first slots come before any
    token's second slot, and within a slot the tokens come in their order.

    Args:
        experts: what was chosen, (T, k) integers, no expert twice for a token.
        num_experts: E.
        capacity: 0 or more.

    Returns:
        (T, k) bool, True where an assignment is kept.

    Source: Lepikhin et al. 2020, "GShard", section 2.2, algorithm 1.

    >>> dispatch_mask(torch.tensor([[0, 1], [0, 2], [1, 0]]), num_experts=3, capacity=1)
    tensor([[ True, False],
            [False,  True],
            [ True, False]])
    """
    T, k = experts.shape
    queue = experts.T.flatten().long()  # slot by slot
    arrivals = F.one_hot(queue, num_experts).cumsum(dim=0)
    place = arrivals.gather(1, queue[:, None])  # 1 for the first to come to its expert
    return (place <= capacity).view(k, T).T


class Expert(nn.Module):
    """A SwiGLU feed-forward layer: down(silu(gate(x)) · up(x)).

    Args:
        d_model: M.
        d_hidden: size of the hidden layer.

    Parameters: `gate` and `up` from M to d_hidden, `down` back to M; nn.Linear
    without bias.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", section 2.

    >>> Expert(d_model=4, d_hidden=6)(torch.zeros(5, 4)).shape
    torch.Size([5, 4])
    """

    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., M) to (..., M)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MoELayer(nn.Module):
    """Each token's sum over its k experts of weight · expert(token).

    Args:
        d_model: M.
        d_hidden: size of the hidden layer of each expert.
        num_experts: E.
        k: experts for each token.
        capacity_factor: an expert takes expert_capacity assignments, chosen by
            dispatch_mask among the tokens of the whole batch, in training and
            in evaluation alike; None for no limit.

    Parameters: `router`, nn.Linear from M to E without bias, and `experts`, an
    nn.ModuleList of E Expert.

    Source: Shazeer et al. 2017, "Outrageously Large Neural Networks", section 2.

    >>> layer = MoELayer(d_model=4, d_hidden=6, num_experts=8, k=2)
    >>> y, logits, experts = layer(torch.zeros(3, 5, 4))
    >>> y.shape, logits.shape, experts.shape
    (torch.Size([3, 5, 4]), torch.Size([15, 8]), torch.Size([15, 2]))
    """

    def __init__(self, d_model: int, d_hidden: int, num_experts: int, k: int, capacity_factor: float | None = None):
        super().__init__()
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(d_model, d_hidden) for _ in range(num_experts))
        self.k = k
        self.capacity_factor = capacity_factor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route the tokens, compute what was routed, and put it together.

        The experts compute the assignments that are kept and nothing else: in
        floating-point operations, counted, not timed, at most 1.1 times what
        that and the router take, for every routing.

        Args:
            x: (B, L, M); left as it was.

        Returns:
            y: (B, L, M), dtype of x. A dropped assignment adds zero; the
                weights of the others stay as they were. x itself is not added.
            logits: (B·L, E), the router's, through which the losses reach it;
                tokens in the order of x.view(B·L, M).
            experts: (B·L, k), as chosen, dropped ones included.
        """
        B, L, M = x.shape
        tokens = x.reshape(B * L, M)
        logits = self.router(tokens)
        weights, experts = top_k_routing(logits, self.k)
        kept = torch.ones_like(experts, dtype=torch.bool)
        if self.capacity_factor is not None:
            capacity = expert_capacity(len(tokens), len(self.experts), self.k, self.capacity_factor)
            kept = dispatch_mask(experts, len(self.experts), capacity)
        y = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            token, slot = (kept & (experts == number)).nonzero(as_tuple=True)
            y.index_add_(0, token, weights[token, slot, None] * expert(tokens[token]))
        return y.view(B, L, M), logits, experts
