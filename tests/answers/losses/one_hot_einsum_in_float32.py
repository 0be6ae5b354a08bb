"""A distribution over the classes is made for every token, and einsum does the rest, all in float32."""

import torch
import torch.nn.functional as F


def log_softmax(x, dim):
    y = x.float().movedim(dim, -1)
    y = y - y.max(-1, keepdim=True).values.detach()
    out = y - torch.log(torch.einsum("...v->...", torch.exp(y)))[..., None]
    return out.movedim(-1, dim).to(x.dtype)


def _weights(targets, ignore_index):
    w = (targets != ignore_index).float()
    return w / torch.maximum(w.sum(), torch.ones(()))


def _wanted(targets, V, ignore_index, eps=0.0):
    legal = torch.where(targets == ignore_index, torch.zeros_like(targets), targets)
    return F.one_hot(legal, V).float() * (1.0 - eps) + eps / V


def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0):
    q = _wanted(targets, logits.size(-1), ignore_index, label_smoothing)
    w = _weights(targets, ignore_index)
    logp = log_softmax(logits.float(), dim=-1)
    return -torch.einsum("...v,...v,...->", q, logp, w).to(logits.dtype)


def cross_entropy_backward(logits, targets, ignore_index=-100):
    e = torch.exp(logits.float() - logits.float().amax(1, keepdim=True))
    p = e / e.sum(1, keepdim=True)
    d = torch.einsum("nv,n->nv", p - _wanted(targets, logits.size(1), ignore_index), _weights(targets, ignore_index))
    return d.to(logits.dtype)


def next_token_pairs(ids):
    L = ids.size(1)
    return ids.narrow(1, 0, L - 1), ids.narrow(1, 1, L - 1)


def shift_right(targets, bos_id):
    out = torch.roll(targets, shifts=1, dims=1)
    out[:, 0] = bos_id
    return out


def perplexity(nll_sums, token_counts):
    sums, counts = torch.tensor(nll_sums), torch.tensor(token_counts)
    if counts.sum() == 0:
        raise ValueError("no tokens")
    return torch.exp(sums.sum() / counts.sum()).item()
