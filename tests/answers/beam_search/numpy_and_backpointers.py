"""NumPy; hypotheses are nodes that know their parents and are spelled out for step and for the result."""

import numpy as np
import torch


class Node:
    __slots__ = ("depth", "parent", "token", "total")

    def __init__(self, token, total, parent=None):
        self.token, self.total, self.parent = token, total, parent
        self.depth = 0 if parent is None else parent.depth + 1

    def spell(self):
        return (self.parent.spell() if self.parent else []) + [self.token]


def beam_search(step, bos_id, eos_id, beam_width, max_len, alpha=0.0):
    for name, value, least in (("beam_width", beam_width, 1), ("max_len", max_len, 1), ("alpha", alpha, 0)):
        if not value >= least:
            raise ValueError(f"{name} = {value}")
    live, ended = [Node(bos_id, 0.0)], []

    def value(node):
        return node.total / node.depth**alpha

    while live and live[0].depth < max_len:
        table = step(torch.as_tensor(np.array([node.spell() for node in live], dtype=np.int64))).numpy().astype(np.float64)
        table = table + np.array([node.total for node in live])[:, None]
        parents, tokens = np.unravel_index(np.argsort(-table, axis=None), table.shape)
        children = (Node(int(t), float(table[p, t]), live[p]) for p, t in zip(parents, tokens) if np.isfinite(table[p, t]))
        following = []
        for child in children:
            if len(following) == beam_width:
                break
            (ended if child.token == eos_id else following).append(child)
        live = following
        ended.sort(key=value, reverse=True)
        del ended[beam_width:]
        if len(ended) == beam_width and all(node.total / max_len**alpha <= value(ended[-1]) for node in live):
            live = []
    final = sorted([*ended, *live], key=value, reverse=True)
    return [(node.spell(), value(node)) for node in final[:beam_width]]
