"""Queries, keys and values in one product; an additive mask only where several tokens come; heads folded into the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kv_cache_bytes(num_layers: int, num_kv_heads: int, head_dim: int, seq_len: int, batch: int = 1, bytes_per_element: int = 2) -> int:
    return torch.Size((2, num_layers, num_kv_heads, head_dim, seq_len, batch, bytes_per_element)).numel()


@dataclass
class KVCache:
    batch: int
    num_heads: int
    max_len: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    length: int = field(default=0, init=False)

    def __post_init__(self):
        self._k = torch.zeros(self.batch * self.num_heads, self.max_len, self.head_dim, dtype=self.dtype)
        self._v = torch.zeros(self.batch * self.num_heads, self.max_len, self.head_dim, dtype=self.dtype)

    def _seen(self, store: Tensor) -> Tensor:
        return store.view(self.batch, self.num_heads, self.max_len, self.head_dim)[:, :, : self.length]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        n = k.shape[2]
        wanted, there = self.length + n, self.max_len
        if wanted > there:
            raise ValueError("%d tokens do not fit into %d" % (wanted, there))
        place = torch.arange(self.length, wanted)
        self._k.index_copy_(1, place, k.data.reshape(-1, n, self.head_dim))
        self._v.index_copy_(1, place, v.data.reshape(-1, n, self.head_dim))
        self.length = wanted
        return self._seen(self._k), self._seen(self._v)

    def reset(self) -> None:
        self.length = 0

    def truncate(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"truncate({length}) with {self.length} tokens")
        self.length = length

    def fork(self) -> KVCache:
        twin = KVCache(self.batch, self.num_heads, self.max_len, self.head_dim, self.dtype)
        twin._k.copy_(self._k)
        twin._v.copy_(self._v)
        twin.length = self.length
        return twin


class CachedSelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, bias: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d_model, d_model, bias=bias) for _ in range(4))

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        b, n, m = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        bias = None if self.q_proj.bias is None else torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        q, k, v = F.linear(x, weight, bias).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if cache is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            start = cache.length
            k, v = cache.append(k, v)
            if n == 1:
                out = F.scaled_dot_product_attention(q, k, v)
            else:
                bias = torch.full((n, n), float("-inf"), dtype=x.dtype).triu(1)
                bias = torch.cat([torch.zeros(n, start, dtype=x.dtype), bias], dim=1)
                scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).mul_(q.shape[-1] ** -0.5).add_(bias)
                out = torch.bmm(scores.softmax(-1), v.flatten(0, 1)).unflatten(0, (b, self.num_heads))
        return self.out_proj(out.transpose(1, 2).reshape(b, n, m))


def generate(step, prompt_ids: Tensor, max_new: int, cache) -> Tensor:
    if max_new == 0:
        return prompt_ids.clone()
    token = step(prompt_ids, cache)[:, -1].topk(1).indices
    result = [prompt_ids, token]
    for _ in range(max_new - 1):
        token = step(token, cache)[:, 0].argmax(dim=1).unsqueeze(1)
        result.append(token)
    return torch.hstack(result)
