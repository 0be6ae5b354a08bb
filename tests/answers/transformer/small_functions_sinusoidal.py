"""Small functions over a flat store of parameters, sinusoidal positions, RMS norms, a GLU, a loop over heads."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def sinusoids(length, width):
    table = torch.zeros(length, width)
    for channel in range(width):
        rate = math.exp(-math.log(10000.0) * (channel - channel % 2) / width)
        wave = torch.sin if channel % 2 == 0 else torch.cos
        table[:, channel] = wave(torch.arange(length) * rate)
    return table


def norm(x, gain):
    return F.rms_norm(x, gain.shape, gain, eps=1e-6)


def attend(p, name, x, y, mask, heads, drop):
    q, k, v = x @ p[name + "_q"].T, y @ p[name + "_k"].T, y @ p[name + "_v"].T
    outs = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = torch.einsum("bld,bsd->bls", qh, kh) * qh.size(-1) ** -0.5
        weights = drop(torch.softmax(torch.where(mask, scores, torch.finfo(scores.dtype).min), dim=-1))
        outs.append(torch.einsum("bls,bsd->bld", weights, vh))
    return torch.cat(outs, -1) @ p[name + "_o"].T


def glu(p, name, x):
    return (F.silu(x @ p[name + "_gate"].T) * (x @ p[name + "_up"].T)) @ p[name + "_down"].T


class Transformer(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, num_heads, num_layers, d_hidden, dropout=0.0, max_len=256, pad_id=0):
        super().__init__()
        self.heads, self.layers, self.pad, self.drop = num_heads, num_layers, pad_id, nn.Dropout(dropout)
        shapes = {
            "src": (src_vocab, d_model),
            "tgt": (tgt_vocab, d_model),
            "out": (tgt_vocab, d_model),
            "end_e": (d_model,),
            "end_d": (d_model,),
        }
        for i in range(num_layers):
            for side, parts in (("e", ("self",)), ("d", ("self", "cross"))):
                for part in parts:
                    shapes |= {f"{side}{i}_{part}_{w}": (d_model, d_model) for w in "qkvo"} | {f"{side}{i}_{part}_norm": (d_model,)}
                shapes |= {f"{side}{i}_ff_{w}": (d_hidden, d_model) for w in ("gate", "up")}
                shapes |= {f"{side}{i}_ff_down": (d_model, d_hidden), f"{side}{i}_ff_norm": (d_model,)}
        self.p = nn.ParameterDict(
            {name: nn.Parameter(torch.ones(s) if len(s) == 1 else torch.randn(s) / s[-1] ** 0.5) for name, s in shapes.items()}
        )
        self.table = nn.Parameter(sinusoids(max_len, d_model), requires_grad=False)

    def embed(self, ids, table):
        return self.drop(table[ids] * table.size(1) ** 0.5 + self.table[: ids.size(1)])

    def sublayers(self, x, side, i, mask, memory=None, real=None):
        p = self.p
        y = norm(x, p[f"{side}{i}_self_norm"])
        x = x + self.drop(attend(p, f"{side}{i}_self", y, y, mask, self.heads, self.drop))
        if memory is not None:
            y = norm(x, p[f"{side}{i}_cross_norm"])
            x = x + self.drop(attend(p, f"{side}{i}_cross", y, memory, real, self.heads, self.drop))
        return x + self.drop(glu(p, f"{side}{i}_ff", norm(x, p[f"{side}{i}_ff_norm"])))

    def encode(self, src):
        x = self.embed(src, self.p["src"])
        for i in range(self.layers):
            x = self.sublayers(x, "e", i, (src != self.pad).unsqueeze(1))
        return norm(x, self.p["end_e"])

    def decode(self, tgt, memory, src):
        place = torch.arange(tgt.size(1))
        causal = (place[:, None] >= place[None, :])[None]
        x = self.embed(tgt, self.p["tgt"])
        for i in range(self.layers):
            x = self.sublayers(x, "d", i, causal, memory, (src != self.pad).unsqueeze(1))
        return norm(x, self.p["end_d"]) @ self.p["out"].T

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), src)

    def greedy_decode(self, src, bos_id, eos_id, max_new):
        rows = []
        for row in src:  # each by itself, then padded together
            one, said = row[None], [bos_id]
            memory = self.encode(one)
            while len(said) <= max_new and (len(said) == 1 or said[-1] != eos_id):
                said.append(int(self.decode(torch.tensor([said]), memory, one)[0, -1].argmax()))
            rows.append(said[1:])
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows])
