"""A generator yields what each round finishes; step is asked for live and ended hypotheses alike, and the ended are masked out."""

from itertools import chain, islice

import torch


def _rounds(step, bos_id, eos_id, beam_width, max_len):
    states = [([bos_id], 0.0)]
    for length in range(1, max_len + 1):
        stacked = torch.stack([torch.tensor(ids, dtype=torch.long) for ids, _ in states])
        ended = stacked[:, -1] == eos_id
        log_probs = step(stacked).masked_fill(ended[:, None], -torch.inf)
        options = [
            (ids + [token], total + log_prob)
            for (ids, total), row in zip(states, log_probs.tolist())
            for token, log_prob in enumerate(row)
            if total + log_prob != -float("inf")
        ]
        options.sort(key=lambda option: -option[1])
        live = [number for number, (ids, _) in enumerate(options) if ids[-1] != eos_id]
        cut = live[beam_width - 1] + 1 if len(live) >= beam_width else len(options)
        states = options[:cut]
        if length == max_len:
            yield states
        else:
            yield [option for option in states if option[0][-1] == eos_id]
        if not states:
            return


def beam_search(step, bos_id, eos_id, beam_width, max_len, alpha=0.0):
    if beam_width < 1 or max_len < 1:
        raise ValueError("beam_width and max_len are at least 1")
    if alpha < 0.0:
        raise ValueError("alpha is at least 0")
    finished = chain.from_iterable(_rounds(step, bos_id, eos_id, beam_width, max_len))
    scored = [(ids, total / (len(ids) - 1) ** alpha) for ids, total in finished]
    return list(islice(sorted(scored, key=lambda pair: pair[1], reverse=True), beam_width))
