"""The router in float32; each assignment gathers the matrices of its expert; one batched product for all."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def top_k_routing(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if not (1 <= k <= logits.shape[-1]):
        raise ValueError(f"k must be in [1, {logits.shape[-1]}], got {k}")
    values, index = torch.sort(logits, dim=-1, descending=True, stable=True)
    weights = F.log_softmax(values[..., :k].float(), dim=-1).exp()
    return weights.type_as(logits), index[..., :k]


def load_balancing_loss(logits: Tensor, experts: Tensor) -> Tensor:
    tokens, num_experts = logits.shape
    probabilities = logits.float().softmax(-1)
    f = torch.zeros(num_experts)
    f.scatter_add_(0, experts.reshape(-1), torch.full((experts.numel(),), 1.0 / experts.numel()))
    loss = torch.einsum("te,e->", probabilities, f) / tokens * num_experts
    return loss.to(logits.dtype)


def router_z_loss(logits: Tensor) -> Tensor:
    z = torch.logsumexp(logits.float(), dim=-1)
    return torch.mean(z * z).to(logits.dtype)


def expert_capacity(num_tokens: int, num_experts: int, k: int, capacity_factor: float) -> int:
    return int(-(-capacity_factor * num_tokens * k // num_experts))


def dispatch_mask(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    filled = torch.zeros(num_experts, dtype=torch.long)
    columns = []
    for slot in experts.unbind(1):
        hot = slot[:, None] == torch.arange(num_experts)
        before = hot.cumsum(0) - 1 + filled
        columns.append((before < capacity)[hot])
        filled = filled + hot.sum(0)
    return torch.stack(columns, 1)


class Expert(nn.Module):
    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)).mul_(self.up(x)))


class MoELayer(nn.Module):
    def __init__(self, d_model: int, d_hidden: int, num_experts: int, k: int, capacity_factor: float | None = None) -> None:
        super().__init__()
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(d_model, d_hidden) for _ in range(num_experts))
        self.num_experts, self.k, self.capacity_factor = num_experts, k, capacity_factor

    def stacked(self, name: str) -> Tensor:
        return torch.stack([getattr(expert, name).weight for expert in self.experts])

    def forward(self, x: Tensor):
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        weights, experts = top_k_routing(logits, self.k)
        kept = torch.full(experts.shape, True)
        if self.capacity_factor is not None:
            kept = dispatch_mask(
                experts, self.num_experts, expert_capacity(tokens.shape[0], self.num_experts, self.k, self.capacity_factor)
            )
        token, slot = torch.where(kept)
        chosen = experts[token, slot]
        rows = tokens[token].unsqueeze(-1)  # (N, M, 1)
        gate, up, down = (self.stacked(name)[chosen] for name in ("gate", "up", "down"))
        hidden = F.silu(torch.bmm(gate, rows)) * torch.bmm(up, rows)
        out = torch.bmm(down, hidden).squeeze(-1) * weights[kept].unsqueeze(-1)
        y = torch.zeros_like(tokens).scatter_add(0, token[:, None].expand_as(out), out)
        return y.reshape(x.shape), logits, experts


if __name__ == "__main__":
    assert math.ceil(1.5) == expert_capacity(3, 2, 1, 1.0)
