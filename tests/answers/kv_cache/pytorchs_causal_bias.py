"""Key-value cache.

A language model writes one token at a time, and each new token attends to all
earlier ones. Computed afresh, every step pays for the whole text again. But in
causal attention the keys and values of the past never change: keep them.

Write how much memory that takes, the cache itself, a self-attention layer that
works with and without it, and the loop that generates. Real servers also cut a
cache back when guessed tokens are refused, and fork it when one prompt is
continued in several ways.

B batch, H heads, D head size, M = H·D model size, V vocabulary; n tokens that
are new, t tokens in all.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kv_cache_bytes(num_layers: int, num_kv_heads: int, head_dim: int, seq_len: int, batch: int = 1, bytes_per_element: int = 2) -> int:
    """Memory that the caches of all layers take together.

    Args:
        num_layers: layers, each with a cache of its own.
        num_kv_heads: heads that have keys and values.
        head_dim: numbers in one key; a value has as many.
        seq_len: tokens held of each sequence.
        batch: sequences.
        bytes_per_element: 2 for float16 and bfloat16.

    Returns:
        Bytes, an int.

    Source: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 2.

    >>> kv_cache_bytes(32, 8, 128, seq_len=8192) / 2**30  # Llama 3 8B, GiB
    1.0
    """
    keys_and_values = 2 * num_layers * num_kv_heads * head_dim
    return keys_and_values * seq_len * batch * bytes_per_element


class KVCache:
    """The keys and values of one layer, in storage that is made once and never moves.

    Args:
        batch: sequences, B.
        num_heads: heads, H.
        max_len: tokens for which there is room.
        head_dim: head size, D.
        dtype: of the keys and values that go in and come out.

    Attributes:
        length: tokens held, an int; 0 at first.

    Source: Shazeer 2019, "Fast Transformer Decoding", section 2.4.

    >>> cache = KVCache(batch=1, num_heads=2, max_len=8, head_dim=4)
    >>> k_all, v_all = cache.append(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    >>> k_all, v_all = cache.append(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
    >>> k_all.shape, cache.length
    (torch.Size([1, 2, 4, 4]), 4)
    """

    def __init__(self, batch: int, num_heads: int, max_len: int, head_dim: int, dtype: torch.dtype = torch.float32):
        self.keys = torch.zeros(batch, num_heads, max_len, head_dim, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the next n tokens behind those held.

        Args:
            k: their keys, (B, H, n, D).
            v: their values, (B, H, n, D).

        Returns:
            Keys and values of all t = length + n tokens held now, oldest
            first, each (B, H, t, D): views of the cache's own storage, which
            stays where it is whatever is called. The cache keeps no autograd
            graph: no gradient flows back to k and v.

        Raises:
            ValueError: there is no room for n more; the text says how many
                tokens are needed and how many there is room for. The cache
                is then as it was before.
        """
        room = self.keys.shape[2]
        end = self.length + k.shape[2]
        if end > room:
            raise ValueError(f"the cache has room for {room} tokens, {end} are needed")
        self.keys[:, :, self.length : end] = k.detach()
        self.values[:, :, self.length : end] = v.detach()
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens and forget the rest.

        Raises:
            ValueError: length is not within 0 .. self.length. The cache is
                then as it was before.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} tokens to {length}")
        self.length = length

    def fork(self) -> "KVCache":
        """An independent copy: what happens to one is not seen in the other.

        Returns:
            A cache with the same tokens, max_len and dtype.

        Source: Kwon et al. 2023, "Efficient Memory Management for Large
        Language Model Serving with PagedAttention", section 4.4.
        """
        B, H, room, D = self.keys.shape
        copy = KVCache(B, H, room, D, dtype=self.keys.dtype)
        copy.append(self.keys[:, :, : self.length], self.values[:, :, : self.length])
        return copy


class CachedSelfAttention(nn.Module):
    """Causal multi-head self-attention that can go on from a cache.

    Scaled dot-product attention, with the scores divided by √D. Head h takes
    the channels from h·D up to (h + 1)·D of q, k and v, and writes to the same
    channels of what goes into out_proj.

    Args:
        d_model: channels of a token, M.
        num_heads: heads, H; divides d_model.
        bias: whether the four projections have biases.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: nn.Linear from M to M channels.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2;
    Shazeer 2019, "Fast Transformer Decoding", section 2.4.

    >>> attention, cache = CachedSelfAttention(8, num_heads=2), KVCache(1, 2, 16, 4)
    >>> x = torch.randn(1, 5, 8)
    >>> chunks = [attention(x[:, :3], cache), attention(x[:, 3:], cache)]
    >>> torch.allclose(torch.cat(chunks, dim=1), attention(x), atol=1e-6)
    True
    """

    def __init__(self, d_model: int, num_heads: int, bias: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Each token attends to itself and to all tokens before it.

        Args:
            x: (B, n, M), n ≥ 1.
            cache: the earlier tokens, which x continues; x is added to it.
                Without a cache x is all there is. All that is remembered
                from call to call is in the cache: one layer may serve
                several caches in turn.

        Returns:
            (B, n, M). However a sequence is cut into chunks, the results are
            those of one pass over the whole. With t tokens in the cache one
            more costs O(t): it makes no tensor of t × t numbers, and the
            unused room of the cache costs nothing. Without a cache gradients
            flow to x and to all parameters.

        Raises:
            ValueError: the cache has no room for x.
        """
        n = x.shape[1]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for project in projections)
        if cache is not None:
            k, v = cache.append(k, v)
        t = k.shape[2]
        position = torch.arange(t, device=x.device)
        allowed = position <= position[t - n :, None]  # the n queries are the last of t tokens
        from torch.nn.attention.bias import causal_lower_right

        out = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(n, t))
        return self.out_proj(out.transpose(1, 2).flatten(2))


@torch.no_grad()
def generate(step: Callable[[Tensor, Any], Tensor], prompt_ids: Tensor, max_new: int, cache: Any) -> Tensor:
    """Continue each prompt by its likeliest next token, max_new times.

    Args:
        step: step(ids (B, n), cache) -> logits (B, n, V). It adds the n tokens
            to the cache; the logits at each of them are for the token that
            follows it.
        prompt_ids: (B, L) integers, L ≥ 1; left as they are.
        max_new: tokens to add to each prompt, 0 or more.
        cache: handed to step. It may hold earlier tokens, which the prompts
            continue; it is not reset.

    Returns:
        (B, L + max_new): the prompts and what follows them. The first call of
        step is given the whole prompt, each further one the one newest token,
        and there are at most max_new calls: none if max_new is 0.

    Source: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 2.

    >>> def step(ids, cache):
    ...     return F.one_hot((ids + 1) % 10, 10)  # after i comes i + 1
    >>> generate(step, torch.tensor([[3, 1, 4]]), max_new=3, cache=None)
    tensor([[3, 1, 4, 5, 6, 7]])
    """
    ids = new = prompt_ids
    for _ in range(max_new):
        new = step(new, cache)[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], dim=1)
    return ids
