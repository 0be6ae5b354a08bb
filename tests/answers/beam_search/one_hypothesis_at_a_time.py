"""Plain Python with a dataclass; step sees one hypothesis at a time; a heap gives the ranking; the search never ends early."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import torch


@dataclass(order=True)
class Hypothesis:
    cost: float
    ids: tuple[int, ...]

    def rated(self, alpha):
        return list(self.ids), -self.cost / math.pow(len(self.ids) - 1, alpha)


def beam_search(step, bos_id, eos_id, beam_width, max_len, alpha=0.0):
    if beam_width <= 0:
        raise ValueError("the beam needs a width")
    if max_len <= 0:
        raise ValueError("max_len must be positive")
    if alpha < 0:
        raise ValueError("alpha must not be negative")
    beam, done = [Hypothesis(0.0, (bos_id,))], []
    while beam and len(beam[0].ids) <= max_len:
        heap = []
        for hypothesis in beam:
            (log_probs,) = step(torch.tensor([hypothesis.ids])).tolist()
            for token, log_prob in enumerate(log_probs):
                if log_prob > -math.inf:
                    heap.append(Hypothesis(hypothesis.cost - log_prob, (*hypothesis.ids, token)))
        heapq.heapify(heap)
        beam = []
        while heap and len(beam) < beam_width:
            best = heapq.heappop(heap)
            if best.ids[-1] == eos_id:
                done.append(best)
            else:
                beam.append(best)
    rated = [hypothesis.rated(alpha) for hypothesis in done + beam]
    return heapq.nlargest(beam_width, rated, key=lambda pair: pair[1])
