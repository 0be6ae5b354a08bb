"""functional_call and vmap over stacked experts for one assignment at a time; a dataclass for what was routed."""

import math as m
from dataclasses import dataclass

import torch as th
from torch import nn
from torch.func import functional_call, vmap


class BadK(ValueError):
    def __init__(self, k, E):
        super().__init__(f"{k}/{E}")


def top_k_routing(logits, k):
    E = logits.shape[-1]
    if not isinstance(k, int) or k <= 0 or k > E:
        raise BadK(k, E)
    values, idx = th.sort(logits, dim=-1, descending=True, stable=True)
    values, idx = values[..., :k], idx[..., :k]
    w = th.log_softmax(values, -1).exp()
    return w, idx


def load_balancing_loss(logits, experts):
    E = logits.shape[-1]
    f = th.zeros(E, dtype=th.float64).index_add_(
        0, experts.reshape(-1).long(), th.full((experts.numel(),), 1.0 / experts.numel(), dtype=th.float64)
    )
    P = th.softmax(logits.double(), dim=-1).mean(dim=0)
    return (E * th.einsum("e,e->", f, P)).to(logits.dtype)


def router_z_loss(logits):
    z = th.logsumexp(logits, dim=-1, keepdim=True)
    return (z.mT @ z / z.shape[0]).squeeze()


def expert_capacity(num_tokens, num_experts, k, capacity_factor):
    from fractions import Fraction

    return m.ceil(Fraction(capacity_factor) * num_tokens * k / num_experts)


def dispatch_mask(experts, num_experts, capacity):
    T, k = experts.shape
    prio = (th.arange(k)[None, :] * T + th.arange(T)[:, None]).reshape(-1)
    flat = experts.reshape(-1)
    same = flat[:, None] == flat[None, :]
    earlier = prio[None, :] < prio[:, None]
    return ((same & earlier).sum(1) < capacity).reshape(T, k)


class Expert(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        kw = dict(bias=False)
        self.up, self.gate, self.down = (
            nn.Linear(d_model, d_hidden, **kw),
            nn.Linear(d_model, d_hidden, **kw),
            nn.Linear(d_hidden, d_model, **kw),
        )

    def forward(self, x):
        g, u = (th.einsum("...m,fm->...f", x, w.weight) for w in (self.gate, self.up))
        return th.einsum("...f,mf->...m", g * g.sigmoid() * u, self.down.weight)


@dataclass
class Routed:
    weights: th.Tensor
    experts: th.Tensor
    keep: th.Tensor


class MoELayer(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, capacity_factor=None):
        super().__init__()
        self.experts = nn.ModuleList()
        self.experts.extend(Expert(d_model, d_hidden) for _ in range(num_experts))
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.hparams = (num_experts, k, capacity_factor)

    def route(self, logits):
        E, k, cf = self.hparams
        w, e = top_k_routing(logits, k)
        keep = th.ones_like(e).bool() if cf is None else dispatch_mask(e, E, expert_capacity(len(e), E, k, cf))
        return Routed(w, e, keep)

    def forward(self, x):
        flat = x.flatten(end_dim=-2)
        logits = self.router(flat)
        r = self.route(logits)
        t, s = th.nonzero(r.keep, as_tuple=True)
        chosen = r.experts[t, s]
        params = {n: th.stack([dict(e.named_parameters())[n] for e in self.experts])[chosen] for n, _ in self.experts[0].named_parameters()}
        base = self.experts[0]
        out = vmap(lambda p, tok: functional_call(base, p, (tok,)))(params, flat[t]) if len(t) else flat[t]
        y = th.zeros_like(flat).index_put((t,), out * r.weights[t, s].unsqueeze(-1), accumulate=True)
        return y.reshape(x.shape), logits, r.experts
