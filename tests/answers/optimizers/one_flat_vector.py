"""Everything of a group that has a gradient is laid into one vector, moved there and split again; memory is padded vectors."""

import torch


class SGD:
    options = ("lr", "momentum", "nesterov")
    slots = ("velocity",)

    def __init__(self, params, lr, momentum=0.0, nesterov=False):
        self.make(params, lr, momentum, nesterov)

    def make(self, params, *values):
        params = tuple(params)
        if isinstance(params[0], torch.Tensor):
            params = ({"params": params},)
        self.param_groups = [{**dict(zip(self.options, values)), **g, "params": list(g["params"])} for g in params]
        self.memory = []
        for g in self.param_groups:
            size = sum(p.numel() for p in g["params"])
            like = g["params"][0].detach() if g["params"] else torch.zeros(())
            self.memory.append({name: like.new_zeros(size) for name in self.slots})

    def step(self):
        with torch.no_grad():
            for g, memory in zip(self.param_groups, self.memory):
                if not g["params"]:
                    continue
                there = torch.cat([torch.full((p.numel(),), p.grad is not None) for p in g["params"]])
                grad = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in g["params"]])
                flat = torch.cat([p.reshape(-1) for p in g["params"]])
                new, slots = self.move(flat, grad, memory, g)
                for name in self.slots:
                    memory[name] = torch.where(there, slots[name], memory[name])
                flat = torch.where(there, new, flat)
                for p, piece in zip(g["params"], flat.split([p.numel() for p in g["params"]])):
                    p.copy_(piece.view_as(p))

    def move(self, flat, grad, memory, g):
        velocity = g["momentum"] * memory["velocity"] + grad
        along = torch.add(grad, velocity, alpha=g["momentum"]) if g["nesterov"] else velocity
        return flat - g["lr"] * along, {"velocity": velocity}

    def zero_grad(self):
        for g in self.param_groups:
            for p in g["params"]:
                del p.grad

    def state_dict(self):
        return {"memory": [dict(m) for m in self.memory], "options": [[g[name] for name in self.options] for g in self.param_groups]}

    def load_state_dict(self, state):
        self.memory = [dict(m) for m in state["memory"]]
        for g, values in zip(self.param_groups, state["options"]):
            g.update(zip(self.options, values))


class AdamW(SGD):
    options = ("lr", "betas", "eps", "weight_decay")
    slots = ("m", "v", "t")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.make(params, lr, betas, eps, weight_decay)

    def move(self, flat, grad, memory, g):
        b1, b2 = g["betas"]
        t = memory["t"] + 1
        m = memory["m"] + (grad - memory["m"]) * (1 - b1)
        v = memory["v"] + (grad * grad - memory["v"]) * (1 - b2)
        step = (m / (1 - torch.pow(b1, t))) / ((v / (1 - torch.pow(b2, t))).sqrt() + g["eps"])
        return flat * (1 - g["lr"] * g["weight_decay"]) - g["lr"] * step, {"m": m, "v": v, "t": t}


def decay_groups(model, weight_decay):
    seen, groups = set(), {True: [], False: []}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None and p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                groups[len(p.size()) >= 2].append(p)
    return [{"params": groups[decays], "weight_decay": weight_decay if decays else 0} for decays in (True, False)]
