"""Tensors all the way: topk of twice the width, as there is one end a row; stops as soon as nothing can improve."""

import torch


def beam_search(step, bos_id, eos_id, beam_width, max_len, alpha=0.0):
    if min(beam_width, max_len) < 1 or alpha < 0:
        raise ValueError((beam_width, max_len, alpha))
    ids = torch.full((1, 1), bos_id)
    sums = torch.zeros(1, dtype=torch.float64)
    pool = []
    for n in range(1, max_len + 1):
        scores = sums.unsqueeze(1) + step(ids).double()
        V = scores.size(1)
        values, places = scores.view(-1).topk(min(2 * beam_width, scores.numel()))
        possible = values > -torch.inf
        values, places = values[possible], places[possible]
        parents, tokens = places // V, places % V
        ends = tokens == eos_id
        in_reach = (~ends).cumsum(0) - (~ends).long() < beam_width  # fewer than beam_width live ones rank above
        extended = torch.cat([ids[parents], tokens.unsqueeze(1)], dim=1)
        for row in (ends & in_reach).nonzero().flatten().tolist():
            pool.append((values[row].item() / n**alpha, extended[row].tolist()))
        pool = sorted(pool, reverse=True)[:beam_width]
        stay = ~ends & in_reach
        ids, sums = extended[stay], values[stay]
        if len(sums) == 0:
            break
        if len(pool) == beam_width and sums.max().item() / max_len**alpha < pool[-1][0]:
            break
    pool += [(total / n**alpha, row) for total, row in zip(sums.tolist(), ids.tolist())]
    return [(row, score) for score, row in sorted(pool, reverse=True)[:beam_width]]
