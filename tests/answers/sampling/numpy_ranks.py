"""NumPy for all but the draw; ranks by a double argsort; rows are drawn one after the other."""

import numpy as np
import torch
from torch import Tensor


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _require(legal: bool, text: str) -> None:
    if not legal:
        raise ValueError(text)


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    _require(k >= 1, "k >= 1 is needed")
    x = logits.numpy()
    V = x.shape[-1]
    kth = np.partition(x, V - min(k, V), axis=-1)[..., V - min(k, V)]
    return torch.from_numpy(np.where(x >= kth[..., None], x, -np.inf).astype(x.dtype))


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    _require(0 < p <= 1, "0 < p <= 1 is needed")
    x = logits.numpy()
    order = np.argsort(-x, axis=-1)
    cumulative = np.cumsum(np.take_along_axis(_softmax(x), order, -1), axis=-1)
    needed = (cumulative < p).sum(axis=-1, keepdims=True) + 1
    rank = np.argsort(order, axis=-1)
    return torch.from_numpy(np.where(rank < needed, x, -np.inf).astype(x.dtype))


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    _require(0 <= p <= 1, "0 <= p <= 1 is needed")
    x = logits.numpy()
    probs = _softmax(x)
    return torch.from_numpy(np.where(probs >= p * probs.max(-1, keepdims=True), x, -np.inf).astype(x.dtype))


def repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    _require(penalty > 0, "penalty > 0 is needed")
    x = logits.numpy().copy()
    for row, produced in zip(x, ids.numpy()):
        u = np.unique(produced)
        row[u] = np.where(row[u] < 0, row[u] * penalty, row[u] / penalty)
    return torch.from_numpy(x)


def distribution(logits: Tensor, temperature: float = 1.0, top_k=None, top_p=None, min_p=None) -> Tensor:
    _require(temperature >= 0, "temperature >= 0 is needed")
    if temperature == 0.0:
        V = logits.shape[-1]
        return torch.from_numpy(np.eye(V)[logits.numpy().argmax(-1)]).to(logits.dtype)
    x = logits / temperature
    if top_k is not None:
        x = top_k_filter(x, top_k)
    if top_p is not None:
        x = top_p_filter(x, top_p)
    if min_p is not None:
        x = min_p_filter(x, min_p)
    return torch.from_numpy(_softmax(x.numpy()))


def sample(logits: Tensor, temperature: float = 1.0, top_k=None, top_p=None, min_p=None, generator=None) -> Tensor:
    rows = distribution(logits, temperature, top_k, top_p, min_p)
    return torch.cat([torch.multinomial(row, num_samples=1, generator=generator) for row in rows])
