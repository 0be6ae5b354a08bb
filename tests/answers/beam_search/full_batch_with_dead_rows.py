"""The batch always has beam_width rows; rows that nobody needs have a sum of -inf and are carried along, as on an accelerator."""

import torch


def _checked(name, value, least):
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def beam_search(step, bos_id, eos_id, beam_width, max_len, alpha=0.0):
    _checked("beam_width", beam_width, 1)
    _checked("max_len", max_len, 1)
    _checked("alpha", alpha, 0.0)
    ids = torch.full((beam_width, max_len + 1), bos_id)
    total = torch.full((beam_width,), float("-inf"))
    total[0] = 0.0
    found = {}

    def keep(row, length, value):
        if value != float("-inf"):
            found[tuple(row[: length + 1].tolist())] = float(value) / length**alpha

    for length in range(1, max_len + 1):
        log_probs = step(ids[:, :length])
        candidates = (total[:, None] + log_probs).flatten()
        V = log_probs.shape[-1]
        order = candidates.argsort(descending=True)
        token = order % V
        live_before = torch.cumsum(token != eos_id, 0) - (token != eos_id).int()
        for place in order[(token == eos_id) & (live_before < beam_width)]:
            row = ids[place // V].clone()
            row[length] = eos_id
            keep(row, length, candidates[place])
        chosen = order[token != eos_id][:beam_width]
        short = beam_width - len(chosen)
        ids = ids[torch.cat([chosen // V, chosen.new_zeros(short)])]
        ids[:, length] = torch.cat([chosen % V, chosen.new_full((short,), bos_id)])
        total = torch.cat([candidates[chosen], candidates.new_full((short,), float("-inf"))])
    for row, value in zip(ids, total):
        keep(row, max_len, value)
    best = sorted(found, key=found.get, reverse=True)[:beam_width]
    return [(list(hypothesis), found[hypothesis]) for hypothesis in best]
