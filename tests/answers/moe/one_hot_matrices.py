"""Counting, gathering and scattering as products with one-hot matrices; experts without tokens are skipped."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Routing(NamedTuple):
    weights: torch.Tensor
    experts: torch.Tensor


def top_k_routing(logits, k):
    if k <= 0:
        raise ValueError("at least one expert is needed")
    if k > logits.shape[-1]:
        raise ValueError("there are not so many experts")
    experts = logits.topk(k).indices
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, experts, True)
    weights = logits.masked_fill(~chosen, -math.inf).softmax(-1)
    return Routing(weights.gather(-1, experts), experts)


def load_balancing_loss(logits, experts):
    E = logits.shape[-1]
    chosen = F.one_hot(experts, E).sum(1).to(logits)  # (T, E)
    return (chosen.mean(0) / experts.shape[1] * logits.softmax(-1).mean(0)).mean() * E**2


def router_z_loss(logits):
    # log p = logits - logsumexp, for any expert
    return (logits[:, 0] - logits.log_softmax(-1)[:, 0]).pow(2).mean(-1)


def expert_capacity(num_tokens, num_experts, k, capacity_factor):
    return math.ceil(num_tokens * k / num_experts * capacity_factor)


def dispatch_mask(experts, num_experts, capacity):
    hot = F.one_hot(experts.mT.reshape(-1), num_experts).double()
    earlier = torch.ones(len(hot), len(hot), dtype=torch.double).tril(-1) @ hot
    place = (earlier * hot).sum(-1)
    return torch.lt(place, capacity).unflatten(0, experts.shape[::-1]).mT


class Expert(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        for name in "gate", "up":
            self.add_module(name, nn.Linear(d_model, d_hidden, bias=False))
        self.add_module("down", nn.Linear(d_hidden, d_model, bias=False))

    def forward(self, x):
        both = x @ torch.cat([self.gate.weight, self.up.weight]).mT
        gate, up = both.chunk(2, dim=-1)
        return (F.silu(gate) * up) @ self.down.weight.mT


class MoELayer(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, capacity_factor=None):
        super().__init__()
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(d_model, d_hidden) for _ in range(num_experts))
        self.k = k
        self.capacity_factor = math.inf if capacity_factor is None else capacity_factor

    def forward(self, x):
        E = len(self.experts)
        tokens = x.reshape(-1, x.shape[-1])
        T = len(tokens)
        logits = self.router(tokens)
        routing = top_k_routing(logits, self.k)
        capacity = T if self.capacity_factor == math.inf else expert_capacity(T, E, self.k, self.capacity_factor)
        kept = dispatch_mask(routing.experts, E, capacity)
        combine = (F.one_hot(routing.experts, E) * (routing.weights * kept)[..., None]).sum(1)  # (T, E)
        took = (F.one_hot(routing.experts, E) * kept[..., None]).sum(1).bool()
        y = 0 * tokens
        for e in range(E):
            if not took[:, e].any():
                continue
            pick = torch.eye(T, dtype=x.dtype)[took[:, e]]  # (N, T)
            y = y + combine[:, e, None] * (pick.mT @ self.experts[e](pick @ tokens))
        return y.view_as(x), logits, routing.experts
