"""Plain loops over tokens, as on a whiteboard; the loss adds up one token after the other."""

import math

import torch


def log_softmax(x, dim):
    if dim < 0:
        dim += x.dim()
    slices = []
    for piece in x.transpose(0, dim).flatten(1).unbind(1) if x.dim() > 1 else [x]:
        top = max(piece.tolist())
        total = 0.0
        for score in piece:
            total = total + torch.exp(score - top)
        slices.append(piece - top - torch.log(total))
    if x.dim() == 1:
        return slices[0]
    return torch.stack(slices, 1).view_as(x.transpose(0, dim)).transpose(0, dim)


def _token_loss(logits, target, smoothing):
    V = logits.shape[0]
    logp = log_softmax(logits, 0)
    loss = 0
    for v in range(V):
        wanted = smoothing / V
        if v == target:
            wanted += 1 - smoothing
        loss = loss - wanted * logp[v]
    return loss


def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0):
    rows = logits.reshape(-1, logits.shape[-1])
    total = 0 * rows[0, 0]
    number = 0
    for row, target in zip(rows, targets.reshape(-1).tolist()):
        if target == ignore_index:
            continue
        total = total + _token_loss(row, target, label_smoothing)
        number += 1
    return total / max(number, 1)


def cross_entropy_backward(logits, targets, ignore_index=-100):
    number = sum(1 for t in targets.tolist() if t != ignore_index)
    out = torch.zeros(logits.shape, dtype=logits.dtype)
    for n, target in enumerate(targets.tolist()):
        if target != ignore_index:
            for v in range(logits.shape[1]):
                # p_v = 1 / sum of exp(l - l_v): nothing but inf in the sum makes it 0
                p = 1 / torch.exp(logits[n] - logits[n, v]).sum()
                out[n, v] = (p - (1.0 if v == target else 0.0)) / number
    return out


def next_token_pairs(ids):
    L = ids.shape[1]
    now = torch.stack([ids[:, i] for i in range(L - 1)], dim=1)
    after = torch.stack([ids[:, i + 1] for i in range(L - 1)], dim=1)
    return [now, after]


def shift_right(targets, bos_id):
    rows = [[bos_id] + row[:-1] for row in targets.tolist()]
    return torch.tensor(rows, dtype=targets.dtype)


def perplexity(nll_sums, token_counts):
    all_tokens = 0
    for count in token_counts:
        all_tokens += count
    if all_tokens < 1:
        raise ValueError("perplexity needs at least one token")
    product = 1.0
    for nll in nll_sums:
        product *= math.exp(nll / all_tokens)
    return product
