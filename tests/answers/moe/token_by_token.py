"""Python loops over tokens, slots and experts; lists in place of tuples; arg max k times."""

import math

import torch
from torch import nn


def top_k_routing(logits, k):
    if k < 1 or k > logits.shape[1]:
        raise ValueError("k")
    left = logits.clone()
    values, experts = [], []
    for _ in range(k):
        expert = left.argmax(dim=1)
        rows = torch.arange(len(logits))
        values.append(logits[rows, expert])
        experts.append(expert)
        left[rows, expert] = -math.inf
    values = torch.stack(values, dim=1)
    powers = torch.exp(values - values[:, :1])
    return [powers / powers.sum(dim=1, keepdim=True), torch.stack(experts, dim=1)]


def load_balancing_loss(logits, experts):
    T, E = logits.shape
    loss = logits.new_zeros(())
    probabilities = torch.softmax(logits, 1)
    for e in range(E):
        f = (experts == e).sum().item() / experts.numel()
        loss = loss + f * probabilities[:, e].sum() / T
    return loss * E


def router_z_loss(logits):
    return sum(torch.logsumexp(row, 0) ** 2 for row in logits) / len(logits)


def expert_capacity(num_tokens, num_experts, k, capacity_factor):
    c = 0
    while c * num_experts < capacity_factor * num_tokens * k:
        c += 1
    return c


def dispatch_mask(experts, num_experts, capacity):
    room = [capacity] * num_experts
    kept = torch.zeros_like(experts).bool()
    for slot in range(experts.shape[1]):
        for token in range(experts.shape[0]):
            e = int(experts[token, slot])
            if room[e] > 0:
                room[e] -= 1
                kept[token, slot] = True
    return kept


class Expert(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.down = nn.Linear(d_hidden, d_model, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.gate = nn.Linear(d_model, d_hidden, bias=False)

    def forward(self, x):
        g = self.gate(x)
        return self.down(g * torch.sigmoid(g) * self.up(x))


class MoELayer(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, capacity_factor=None):
        super().__init__()
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList()
        for _ in range(num_experts):
            self.experts.append(Expert(d_model, d_hidden))
        self.k, self.capacity_factor = k, capacity_factor

    def forward(self, x):
        B, L, M = x.shape
        logits = self.router(x).reshape(-1, len(self.experts))
        weights, experts = top_k_routing(logits, self.k)
        capacity = B * L
        if self.capacity_factor is not None:
            capacity = expert_capacity(B * L, len(self.experts), self.k, self.capacity_factor)
        kept = dispatch_mask(experts, len(self.experts), capacity)
        rows = []
        for t, token in enumerate(x.reshape(-1, M)):
            row = torch.zeros_like(token)
            for slot in range(self.k):
                if kept[t, slot]:
                    row = row + weights[t, slot] * self.experts[int(experts[t, slot])](token)
            rows.append(row)
        return [torch.stack(rows).reshape(B, L, M), logits, experts]
