"""Two classes that share nothing, lists beside lists, the parameters' .data changed; zero_grad with zeros."""

import math
import torch


class SGD:
    def __init__(self, params, lr, momentum=0.0, nesterov=False):
        params = list(params)
        if not isinstance(params[0], dict):
            params = [dict(params=params)]
        self.param_groups = []
        for g in params:
            g = dict(g)
            g["params"] = list(g["params"])
            g.setdefault("lr", lr)
            g.setdefault("momentum", momentum)
            g.setdefault("nesterov", nesterov)
            self.param_groups.append(g)
        self.v = [[None] * len(g["params"]) for g in self.param_groups]

    def step(self):
        for g, vs in zip(self.param_groups, self.v):
            for i in range(len(vs)):
                p = g["params"][i]
                if p.grad is None:
                    continue
                if vs[i] is None:
                    vs[i] = p.grad.data * 1.0
                else:
                    vs[i] = g["momentum"] * vs[i] + p.grad.data
                if g["nesterov"]:
                    p.data = p.data - g["lr"] * (p.grad.data + g["momentum"] * vs[i])
                else:
                    p.data = p.data - g["lr"] * vs[i]

    def zero_grad(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is not None:
                    p.grad = torch.zeros_like(p.grad)

    def state_dict(self):
        return {
            "groups": [[g["lr"], g["momentum"], g["nesterov"]] for g in self.param_groups],
            "v": [list(vs) for vs in self.v],
        }

    def load_state_dict(self, state):
        for g, (lr, momentum, nesterov) in zip(self.param_groups, state["groups"]):
            g["lr"], g["momentum"], g["nesterov"] = lr, momentum, nesterov
        self.v = [list(vs) for vs in state["v"]]


class AdamW:
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        params = list(params)
        if not isinstance(params[0], dict):
            params = [dict(params=params)]
        self.param_groups = []
        for g in params:
            full = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
            full.update(g)
            full["params"] = list(full["params"])
            self.param_groups.append(full)
        self.m = [[0.0] * len(g["params"]) for g in self.param_groups]
        self.s = [[0.0] * len(g["params"]) for g in self.param_groups]
        self.t = [[0] * len(g["params"]) for g in self.param_groups]

    def step(self):
        for k, g in enumerate(self.param_groups):
            b1, b2 = g["betas"]
            for i, p in enumerate(g["params"]):
                if p.grad is None:
                    continue
                grad = p.grad.data
                self.t[k][i] += 1
                t = self.t[k][i]
                self.m[k][i] = b1 * self.m[k][i] + (1 - b1) * grad
                self.s[k][i] = b2 * self.s[k][i] + (1 - b2) * grad**2
                # decay inside the bracket, with the old p
                rate = g["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t)
                adam = rate * self.m[k][i] / (torch.sqrt(self.s[k][i]) + g["eps"] * math.sqrt(1 - b2**t))
                p.data = p.data - adam - g["lr"] * g["weight_decay"] * p.data

    def zero_grad(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is not None:
                    p.grad.zero_()

    def state_dict(self):
        copy = lambda table: [list(row) for row in table]
        options = [{k: g[k] for k in ("lr", "betas", "eps", "weight_decay")} for g in self.param_groups]
        return {"m": copy(self.m), "s": copy(self.s), "t": copy(self.t), "options": options}

    def load_state_dict(self, state):
        copy = lambda table: [list(row) for row in table]
        self.m, self.s, self.t = copy(state["m"]), copy(state["s"]), copy(state["t"])
        for g, options in zip(self.param_groups, state["options"]):
            g.update(options)


def decay_groups(model, weight_decay):
    yes, no = [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if len(p.shape) > 1:
            yes.append(p)
        else:
            no.append(p)
    return [dict(params=no, weight_decay=0.0), dict(params=yes, weight_decay=weight_decay)]
