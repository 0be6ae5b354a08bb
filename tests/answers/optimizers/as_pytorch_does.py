"""After torch.optim: defaults, state by parameter, state_dict with numbers for parameters; foreach kernels; exp_avg by lerp."""

from collections import defaultdict
from copy import deepcopy
from itertools import chain

import torch


class _Base:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = defaultdict(dict)
        self.param_groups = []
        param_groups = list(params)
        if len(param_groups) == 0:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(param_groups[0], dict):
            param_groups = [{"params": param_groups}]
        for group in param_groups:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        group["params"] = [params] if isinstance(params, torch.Tensor) else list(params)
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none=True):
        for p in chain.from_iterable(g["params"] for g in self.param_groups):
            if p.grad is not None:
                if set_to_none:
                    p.grad = None
                else:
                    p.grad.detach_().zero_()

    def state_dict(self):
        index = {}
        packed = []
        for group in self.param_groups:
            for p in group["params"]:
                index.setdefault(id(p), len(index))
            packed.append({k: v for k, v in group.items() if k != "params"} | {"params": [index[id(p)] for p in group["params"]]})
        return deepcopy({"state": {index[id(p)]: s for p, s in self.state.items()}, "param_groups": packed})

    def load_state_dict(self, state_dict):
        state_dict = deepcopy(state_dict)
        if len(state_dict["param_groups"]) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        by_index = {}
        for group, saved in zip(self.param_groups, state_dict["param_groups"]):
            if len(group["params"]) != len(saved["params"]):
                raise ValueError("loaded state dict contains a parameter group that doesn't match the size of optimizer's group")
            by_index.update(zip(saved["params"], group["params"]))
            params = group["params"]
            group.clear()
            group.update(saved)
            group["params"] = params
        self.state = defaultdict(dict, {by_index[i]: s for i, s in state_dict["state"].items()})


class SGD(_Base):
    def __init__(self, params, lr, momentum=0.0, nesterov=False):
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if nesterov and momentum <= 0:
            raise ValueError("Nesterov momentum requires a momentum")
        super().__init__(params, dict(lr=lr, momentum=momentum, nesterov=nesterov))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            momentum = group["momentum"]
            if momentum != 0:
                bufs = []
                for p in params:
                    state = self.state[p]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.clone(p.grad).detach()
                    else:
                        state["momentum_buffer"].mul_(momentum).add_(p.grad)
                    bufs.append(state["momentum_buffer"])
                grads = torch._foreach_add(grads, bufs, alpha=momentum) if group["nesterov"] else bufs
            torch._foreach_add_(params, grads, alpha=-group["lr"])


class AdamW(_Base):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["step"] += 1
                step = state["step"].item()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad.conj(), value=1 - beta2)
                denom = (state["exp_avg_sq"].sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
                p.addcdiv_(state["exp_avg"], denom, value=-group["lr"] / (1 - beta1**step))


def decay_groups(model, weight_decay):
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decay, no_decay = set(), set()
    for name, p in params.items():
        (decay if p.dim() >= 2 else no_decay).add(name)
    assert not decay & no_decay
    return [
        {"params": [params[name] for name in sorted(decay)], "weight_decay": weight_decay},
        {"params": [params[name] for name in sorted(no_decay)], "weight_decay": 0.0},
    ]
