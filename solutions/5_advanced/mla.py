"""Multi-head latent attention.

A model of 61 layers with 128 heads each has to remember 4 MB of keys and
values for every token that it has read. Sharing them among heads would make
that smaller and the model worse. DeepSeek instead keeps, of each token and
layer, one small vector from which the keys and values of all heads could be
made again, and a short key that tells where the token stands: 576 numbers in
place of 32,768. And when the next token is written, no key and no value is
made again at all.

Write this layer in two forms: the plain one, which makes keys and values out
of what is kept, as in training, and the absorbed one, which gives the same
without them, as in decoding.

B batch, L new tokens, t tokens kept from before, M model size, H heads, D head
size, C size of a latent (`kv_rank`), R size of the rotary part (`rope_dim`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x: Tensor, positions: Tensor) -> Tensor:  # given
    """Rotary positions: channels 2i and 2i + 1 turn together by position * 10000 ** (-2i / R).

    Args:
        x: (..., L, R), R even; it is left as it is.
        positions: (L,), where the tokens stand.

    Returns:
        (..., L, R), dtype of x.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.

    >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))  # cos 1, sin 1
    tensor([[0.5403, 0.8415]])
    """
    R = x.shape[-1]
    exponents = torch.arange(0, R, 2, device=x.device) / R
    angles = positions[:, None] * 10000.0**-exponents
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


class LatentAttention(nn.Module):
    """Causal self-attention whose keys and values come out of one latent a token.

    Of each token is kept
        latent      kv_norm(kv_down(x)), (C,), the same for all heads;
        rotary key  k_rope(x), (R,), rotated to the token's position, the same
                    for all heads,
    and with these each head h has
        query       channels h·(D + R) up to (h + 1)·(D + R) of q_proj(x): the
                    first D are its content part, the other R its rotary part,
                    which is rotated to the token's position;
        key         channels h·D up to (h + 1)·D of k_up(latent), and behind
                    them the rotary key: D + R in all;
        value       channels h·D up to (h + 1)·D of v_up(latent);
        weights     softmax of query · key / √(D + R), of any magnitude, over the
                    token itself and all tokens before it.
    out_proj takes the weighted values of all heads, head 0 first. Positions
    count from 0 at the first token of the sequence; rotations are those of
    `rotate`, whose angles are float32 or wider in half precision too.

    Args:
        d_model: M.
        num_heads: H.
        head_dim: D; H·D need not be M.
        kv_rank: C.
        rope_dim: R, even.

    Attributes:
        q_proj: nn.Linear from M to H·(D + R) channels.
        kv_down: nn.Linear from M to C.
        kv_norm: RMS norm over the C channels, x / √(mean(x²) + 1e-6) · weight,
            with the parameter `weight`, such as nn.RMSNorm.
        k_rope: nn.Linear from M to R.
        k_up, v_up: nn.Linear from C to H·D.
        out_proj: nn.Linear from H·D to M.

    None has a bias, and these hold all parameters. Nothing is remembered from
    call to call, no token and no product of weights: the weights may have
    changed in between.

    Raises:
        ValueError: rope_dim is odd.

    Source: DeepSeek-AI 2024, "DeepSeek-V2", sections 2.1.2, 2.1.3 and 3.1.2
    (the norm); "DeepSeek-V3 Technical Report", section 2.1.1. Queries are not
    compressed, as in DeepSeek-V2-Lite.

    >>> attention = LatentAttention(d_model=16, num_heads=4, head_dim=8, kv_rank=6, rope_dim=2)
    >>> x = torch.randn(1, 5, 16)
    >>> out, cache = attention(x)
    >>> out.shape, cache.shape  # 8 numbers a token; keys and values would be 4 · (8 + 2 + 8)
    (torch.Size([1, 5, 16]), torch.Size([1, 5, 8]))
    >>> _, cache = attention(x[:, :4])
    >>> last, cache = attention.absorbed(x[:, 4:], cache)
    >>> torch.allclose(last, out[:, 4:], atol=1e-6)
    True
    """

    def __init__(self, d_model: int, num_heads: int, head_dim: int, kv_rank: int, rope_dim: int):
        super().__init__()
        if rope_dim % 2:
            raise ValueError(f"channels rotate in pairs, so rope_dim must be even, not {rope_dim}")
        self.head_dim, self.kv_rank, self.rope_dim = head_dim, kv_rank, rope_dim
        self.q_proj = nn.Linear(d_model, num_heads * (head_dim + rope_dim), bias=False)
        self.kv_down = nn.Linear(d_model, kv_rank, bias=False)
        self.kv_norm = nn.RMSNorm(kv_rank, eps=1e-6)
        self.k_rope = nn.Linear(d_model, rope_dim, bias=False)
        self.k_up = nn.Linear(kv_rank, num_heads * head_dim, bias=False)
        self.v_up = nn.Linear(kv_rank, num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, d_model, bias=False)

    def _queries_and_cache(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Content and rotary parts of the queries, (B, H, L, D) and (B, H, L, R), and what is kept of all tokens, (B, t + L, C + R)."""
        before = 0 if cache is None else cache.shape[1]
        positions = torch.arange(before, before + x.shape[1], device=x.device)
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim + self.rope_dim)).transpose(1, 2)
        q_content, q_rope = q.split([self.head_dim, self.rope_dim], dim=-1)
        new = torch.cat([self.kv_norm(self.kv_down(x)), rotate(self.k_rope(x), positions)], dim=-1)
        return q_content, rotate(q_rope, positions), new if cache is None else torch.cat([cache, new], dim=1)

    def _weights(self, scores: Tensor) -> Tensor:
        """Softmax over the tokens up to the query's, (B, H, L, t + L)."""
        L, t = scores.shape[-2:]
        future = torch.ones(L, t, dtype=torch.bool, device=scores.device).triu(1 + t - L)
        return F.softmax((scores / (self.head_dim + self.rope_dim) ** 0.5).masked_fill(future, -torch.inf), dim=-1)

    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attention with keys and values made out of what is kept.

        Args:
            x: (B, L, M), L ≥ 1, of the parameters' dtype, half precision
                included.
            cache: (B, t, C + R), what a call of `forward` or of `absorbed`
                returned; x continues its t tokens and stands at the positions
                from t on. Without it x is the beginning.

        Returns:
            Two tensors of the dtype of x: the output, (B, L, M), and the cache
            of all t + L tokens, (B, t + L, C + R), each token's latent and
            behind it its rotary key, rotated. x and the cache that was given
            are left as they are, so that several sequences may continue the
            same one. However a sequence is cut into calls, the results are
            those of one call. Without a cache gradients flow from the output
            to x and to all parameters.
        """
        q_content, q_rope, cache = self._queries_and_cache(x, cache)
        latents, k_rope = cache.split([self.kv_rank, self.rope_dim], dim=-1)
        k, v = (up(latents).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for up in (self.k_up, self.v_up))
        weights = self._weights(q_content @ k.mT + q_rope @ k_rope[:, None].mT)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2)), cache

    def absorbed(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same as forward, without a key or a value of any kept token.

        Args:
            x, cache: as for forward.

        Returns:
            As forward does, with its gradients. When one token is decoded,
            each of the tokens before it costs H·(2C + R) multiplications, no
            matter what D is: for each head C + R for its score and C for its
            part in the sum. Nor is anything made that takes more than C + R
            numbers for each of these tokens and each head.

        Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1.2.
        """
        q_content, q_rope, cache = self._queries_and_cache(x, cache)
        latents, k_rope = cache[:, None].split([self.kv_rank, self.rope_dim], dim=-1)  # (B, 1, t + L, ...), for all heads
        k_up, v_up = (up.weight.unflatten(0, (-1, self.head_dim)) for up in (self.k_up, self.v_up))  # (H, D, C)
        weights = self._weights((q_content @ k_up) @ latents.mT + q_rope @ k_rope.mT)
        return self.out_proj((weights @ latents @ v_up.mT).transpose(1, 2).flatten(2)), cache
