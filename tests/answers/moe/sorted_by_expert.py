"""All assignments in one stable sort by expert; softmax over everything, then renormalised; functional products."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


class TooManyExperts(ValueError):
    pass


def top_k_routing(logits, k):
    n = logits.size(1)
    if k not in range(1, n + 1):
        raise TooManyExperts(f"{k=} but there are {n} experts")
    probs = F.softmax(logits, dim=1)
    order = torch.argsort(logits, dim=1, descending=True)[:, :k]
    chosen = torch.gather(probs, 1, order)
    return chosen / chosen.sum(1, keepdim=True), order


def load_balancing_loss(logits, experts):
    n = logits.size(1)
    hits = F.one_hot(experts, n).to(logits.dtype)  # (T, k, E)
    f = hits.mean(dim=(0, 1))
    p = F.softmax(logits, dim=-1).mean(0)
    return n * torch.dot(f, p)


def router_z_loss(logits):
    top = logits.max(dim=1, keepdim=True).values.detach()
    z = (logits - top).exp().sum(1).log() + top.squeeze(1)
    return (z**2).mean()


def expert_capacity(num_tokens, num_experts, k, capacity_factor):
    load = capacity_factor * num_tokens * k / num_experts
    return int(load) + (int(load) < load)


def dispatch_mask(experts, num_experts, capacity):
    tokens, k = experts.shape
    flat = experts.t().reshape(-1)
    order = torch.argsort(flat, stable=True)
    ranked = flat[order]
    starts = torch.searchsorted(ranked, torch.arange(num_experts))
    place = torch.arange(flat.numel()) - starts[ranked]
    kept = torch.empty(flat.numel(), dtype=torch.bool)
    kept[order] = place < capacity
    return kept.reshape(k, tokens).t().contiguous()


class Expert(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.gate, self.up = nn.Linear(d_model, d_hidden, False), nn.Linear(d_model, d_hidden, False)
        self.down = nn.Linear(d_hidden, d_model, False)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class MoELayer(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, capacity_factor=None):
        super().__init__()
        self.num_experts, self.k, self.cf = num_experts, k, capacity_factor
        self.experts = nn.ModuleList([Expert(d_model, d_hidden) for _ in range(num_experts)])
        self.router = nn.Linear(d_model, num_experts, bias=False)

    def forward(self, x):
        flat = x.flatten(0, 1)
        logits = F.linear(flat, self.router.weight)
        w, idx = top_k_routing(logits, self.k)
        token = torch.arange(flat.size(0)).repeat_interleave(self.k)
        expert, weight = idx.reshape(-1), w.reshape(-1)
        if self.cf is not None:
            keep = dispatch_mask(idx, self.num_experts, expert_capacity(flat.size(0), self.num_experts, self.k, self.cf)).reshape(-1)
            token, expert, weight = token[keep], expert[keep], weight[keep]
        order = expert.argsort()
        sizes = expert.bincount(minlength=self.num_experts).tolist()
        rows = flat.index_select(0, token[order]).split(sizes)
        done = torch.cat([e(r) for e, r in zip(self.experts, rows)])
        y = flat.new_zeros(flat.shape).index_add(0, token[order], done * weight[order].unsqueeze(1))
        return y.reshape_as(x), logits, idx
