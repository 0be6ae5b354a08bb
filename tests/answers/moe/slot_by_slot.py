"""Boolean rows for each slot and expert; products as multiply and sum; the load is kept in a buffer; sizes as attributes."""

import math
import torch
from torch import nn


def top_k_routing(logits, k):
    num_experts = logits.size(-1)
    if k > num_experts or k < 1:
        raise ValueError("bad k: {} of {}".format(k, num_experts))
    top = torch.topk(logits, k)
    return torch.nn.Softmax(dim=-1)(top.values), top.indices


def load_balancing_loss(logits, experts):
    with torch.no_grad():
        f = torch.stack([(experts == e).to(logits.dtype).mean() for e in range(logits.size(-1))])
    p = logits.softmax(-1)
    return logits.size(-1) * (f * p).sum(-1).mean()


def router_z_loss(logits):
    z = torch.logaddexp(logits, torch.full_like(logits, -math.inf))
    total = z[:, 0]
    for e in range(1, logits.size(1)):
        total = torch.logaddexp(total, z[:, e])
    return torch.nn.functional.mse_loss(total, torch.zeros_like(total))


def expert_capacity(num_tokens, num_experts, k, capacity_factor):
    per_expert = num_tokens / num_experts
    return math.ceil(per_expert * k * capacity_factor)


def dispatch_mask(experts, num_experts, capacity):
    kept = torch.zeros(experts.shape, dtype=torch.bool)
    for e in range(num_experts):
        slots, tokens = (experts == e).t().nonzero(as_tuple=True)  # slot by slot
        kept[tokens[:capacity], slots[:capacity]] = True
    return kept


class Expert(nn.Module):
    def __init__(self, d_model, d_hidden):
        super(Expert, self).__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    @staticmethod
    def times(x, weight):
        return (x[..., None, :] * weight).sum(dim=-1)

    def forward(self, x):
        gate = self.times(x, self.gate.weight)
        return self.times(gate / (1 + torch.exp(-gate)) * self.times(x, self.up.weight), self.down.weight)


class MoELayer(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, capacity_factor=None):
        super(MoELayer, self).__init__()
        self.d_model, self.num_experts, self.k, self.capacity_factor = d_model, num_experts, k, capacity_factor
        self.router = nn.Linear(d_model, num_experts, bias=False)
        nn.init.normal_(self.router.weight, std=0.02)
        self.experts = nn.ModuleList([Expert(d_model, d_hidden) for _ in range(num_experts)])
        self.register_buffer("load", torch.zeros(num_experts), persistent=False)

    def forward(self, x):
        flat = x.view(-1, self.d_model)
        logits = self.router(flat)
        weights, experts = top_k_routing(logits, self.k)
        self.load = torch.bincount(experts.view(-1), minlength=self.num_experts).float()
        if self.capacity_factor is None:
            kept = torch.ones_like(experts) > 0
        else:
            capacity = expert_capacity(flat.size(0), self.num_experts, self.k, self.capacity_factor)
            kept = dispatch_mask(experts, self.num_experts, capacity)
            weights = torch.where(kept, weights, torch.zeros_like(weights))
        y = torch.zeros_like(flat)
        for e in range(self.num_experts):
            for s in range(self.k):
                rows = (experts[:, s] == e) & kept[:, s]
                if rows.any():
                    y[rows] = y[rows] + weights[rows, s].unsqueeze(-1) * self.experts[e](flat[rows])
        return y.view_as(x), logits, experts
