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
    # TODO: write it as described above.
    raise NotImplementedError


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
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

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
        # TODO: write it as described above.
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all tokens."""
        # TODO: write it as described above.
        raise NotImplementedError

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens and forget the rest.

        Raises:
            ValueError: length is not within 0 .. self.length. The cache is
                then as it was before.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    def fork(self) -> "KVCache":
        """An independent copy: what happens to one is not seen in the other.

        Returns:
            A cache with the same tokens, max_len and dtype.

        Source: Kwon et al. 2023, "Efficient Memory Management for Large
        Language Model Serving with PagedAttention", section 4.4.
        """
        # TODO: write it as described above.
        raise NotImplementedError


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
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Each token attends to itself and to all tokens before it.

        Args:
            x: (B, n, M), n ≥ 1, of the parameters' dtype.
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
        # TODO: write it as described above.
        raise NotImplementedError


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
    # TODO: write it as described above.
    raise NotImplementedError
