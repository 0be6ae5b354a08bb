"""Everything is thought of as blocked, as in nn.MultiheadAttention, and turned round at the end."""

import torch
import torch.nn.functional as F

NEG_INF = float("-inf")


def _blocked_future(n_queries, n_keys):
    return torch.ones(n_queries, n_keys, dtype=torch.uint8).triu(n_keys - n_queries + 1).to(torch.bool)


def causal_mask(L, S=None):
    return ~_blocked_future(L, L if S is None else S)


def padding_mask(lengths, max_len):
    ends = F.one_hot(lengths.long(), max_len + 1)  # 1 at the first key of the padding
    blocked = ends.cumsum(-1)[:, :max_len].bool()
    return ~blocked[:, None, None]


def sliding_window_mask(L, window):
    if window < 1:
        raise ValueError("window < 1")
    too_old = torch.ones(L, L, dtype=torch.uint8).tril(-window).bool()
    return ~(_blocked_future(L, L) | too_old)


def document_mask(document_ids):
    B, L = document_ids.shape
    _, numbers = torch.unique(document_ids, return_inverse=True)
    membership = F.one_hot(numbers).float()
    same = torch.einsum("bid,bjd->bij", membership, membership) > 0.5
    return same.unsqueeze(1).masked_fill(_blocked_future(L, L), False)


def prefix_mask(L, prefix_len):
    if not (0 <= prefix_len and prefix_len <= L):
        raise ValueError("prefix_len")
    blocked = _blocked_future(L, L)
    blocked[:, :prefix_len] = 0
    return blocked.logical_not()


def combine_masks(*masks):
    present = [m for m in masks if torch.is_tensor(m)]
    if present == []:
        raise ValueError(f"no mask among {len(masks)} arguments")
    shape = torch.broadcast_shapes(*(m.shape for m in present))
    blocked = torch.zeros(shape, dtype=torch.bool)
    for m in present:
        blocked |= ~m
    return ~blocked


def apply_mask(scores, mask):
    mask = mask.broadcast_to(scores.shape)
    out = torch.full_like(scores, NEG_INF)
    out[mask] = scores[mask]
    return out


if __name__ == "__main__":
    q = torch.randn(1, 1, 5, 4)
    ours = torch.softmax(apply_mask(q @ q.mT / 2, causal_mask(5)), -1) @ q
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, q, q, is_causal=True))
