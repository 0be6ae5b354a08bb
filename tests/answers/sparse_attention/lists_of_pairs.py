"""Every form is a list of (query, key) pairs: edges, with segment softmax over rows, as in graph attention."""

import math

import torch


def edges_attention(q, k, v, bs, rows, cols):
    """bs, rows, cols: lists of edges for each batch; heads together."""
    B, H, L, D = q.shape

    def flat(x):
        return x.transpose(1, 2).reshape(B * L, H, -1)

    Q, K, V = flat(q), flat(k), flat(v)
    r, c = bs * L + rows, bs * L + cols
    s = (Q[r] * K[c]).sum(-1) * D**-0.5  # (E, H)
    top = torch.full((B * L, H), -math.inf, dtype=s.dtype).scatter_reduce(0, r[:, None].expand(-1, H), s.detach(), "amax")
    w = torch.exp(s - top[r])
    den = torch.zeros(B * L, H, dtype=s.dtype).index_add(0, r, w)
    num = torch.zeros(B * L, H, V.shape[-1], dtype=s.dtype).index_add(0, r, w[..., None] * V[c])
    return (num / torch.where(den > 0, den, 1)[..., None]).view(B, L, H, -1).transpose(1, 2)


def band(L, window):
    h = min(window // 2, L - 1)
    i = torch.arange(L).repeat_interleave(2 * h + 1)
    j = i + torch.arange(-h, h + 1).repeat(L)
    ok = (j >= 0) & (j < L)
    return i[ok], j[ok]


def sliding_window_attention(q, k, v, window):
    return longformer_attention(q, k, v, window, torch.zeros(q.size(0), q.size(2), dtype=torch.bool))


def longformer_attention(q, k, v, window, is_global):
    B, L = is_global.shape
    keys = []
    i, j = band(L, window)
    for b in range(B):
        g = is_global[b].nonzero().flatten()
        a = torch.arange(L)
        gi, aj = torch.cartesian_prod(g, a).reshape(-1, 2).unbind(1) if len(g) else (g, g)
        code = torch.cat([i * L + j, gi * L + aj, aj * L + gi])
        keys.append(b * L * L + torch.unique(code))
    code = torch.cat(keys)
    return edges_attention(q, k, v, code // (L * L), code // L % L, code % L)


def bigbird_mask(L, block, window, num_global, num_random, generator=None):
    if not L % block == 0:
        raise ValueError(f"L={L} is not a multiple of {block}")
    n = L // block
    grid = torch.arange(n)
    fixed = torch.logical_or(
        (grid.view(-1, 1) - grid.view(1, -1)).abs().le(window // 2), torch.minimum(grid.view(-1, 1), grid.view(1, -1)).lt(num_global)
    )
    noise = -torch.empty(n, n).exponential_(generator=generator).log()
    noise[fixed] = -math.inf
    m = min(num_random, n)
    top = noise.topk(m, dim=1)
    extra = torch.zeros(n, n, dtype=torch.bool).scatter(1, top.indices, top.values > -math.inf)
    return (fixed | extra)[:, None, :, None].expand(n, block, n, block).reshape(L, L)


def block_sparse_attention(q, k, v, layout, block):
    r, c = layout.nonzero(as_tuple=True)
    t = torch.arange(block)
    rows = (r[:, None, None] * block + t[None, :, None]).expand(-1, block, block).reshape(-1)
    cols = (c[:, None, None] * block + t[None, None, :]).expand(-1, block, block).reshape(-1)
    B, E = q.size(0), rows.numel()
    return edges_attention(q, k, v, torch.arange(B).repeat_interleave(E), rows.repeat(B), cols.repeat(B))
