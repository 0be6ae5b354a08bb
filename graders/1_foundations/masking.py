"""What right masks do, and how they are combined and applied."""

import torch

from kata.grading import booleans, check, close, failure, gradients, held, index, indices, inputs_after, normal, seed, size

FEW = (1, 2, 5)  # far enough apart to tell an offset from a length


@check(points=1, sizes={"L": FEW}, L=size("L"))
def causal_mask_hides_the_future(impl, L):
    """causal_mask(L) lets each query see itself and everything before it, and nothing after it."""
    return impl.causal_mask(L), impl.causal_mask(30 * L)


@check(points=2, after=causal_mask_hides_the_future, sizes={"new": FEW, "cached": FEW}, new=size("new"), cached=size("cached"))
def causal_mask_is_aligned_to_the_end(impl, new, cached):
    """With more keys than queries the queries are the last positions: causal_mask(new, cached + new)."""
    return impl.causal_mask(new, cached + new), impl.causal_mask(new, 3000)


@check(points=1, after=causal_mask_hides_the_future, sizes={"S": FEW, "more": FEW}, S=size("S"), more=size("more"))
def causal_mask_takes_fewer_keys(impl, S, more):
    """With fewer keys than queries, causal_mask(S + more, S), the first L - S queries see nothing; the last sees all."""
    return impl.causal_mask(S + more, S)


@check(points=1, sizes={"B": FEW, "max_len": FEW}, lengths=indices("B", below="max_len"), max_len=size("max_len"))
def padding_mask_allows_the_tokens(impl, lengths, max_len):
    """padding_mask allows the first lengths[b] keys of sequence b, in the shape (B, 1, 1, max_len)."""
    return impl.padding_mask(lengths, max_len)


@check(points=1, after=padding_mask_allows_the_tokens, sizes={"max_len": FEW}, max_len=size("max_len"))
def padding_mask_takes_empty_and_full_sequences(impl, max_len):
    """A sequence of length 0 has no key, one of length max_len has all of them."""
    edges = torch.tensor([0, max_len, 1])
    long = impl.padding_mask(edges + 3000, max_len + 3000)
    return impl.padding_mask(edges, max_len), impl.padding_mask(edges[:1], max_len), long


@check(points=1, sizes={"L": (1, 2, 6), "window": (1, 2, 4)}, L=size("L"), window=size("window"))
def sliding_window_is_causal_and_bounded(impl, L, window):
    """sliding_window_mask lets each query see the last `window` keys up to and including itself."""
    return impl.sliding_window_mask(L, window)


@check(points=1, after=sliding_window_is_causal_and_bounded, sizes={"L": FEW}, L=size("L"))
def sliding_window_of_one_and_of_all(impl, L):
    """A window of 1 leaves each query only itself; a window of L or more is the causal mask."""
    return impl.sliding_window_mask(L, 1), impl.sliding_window_mask(L, window=L + 3), impl.sliding_window_mask(30 * L, 25 * L)


@check(points=1, after=sliding_window_is_causal_and_bounded, sizes={"L": FEW}, L=size("L"), below=size("below"))
def sliding_window_refuses_less_than_one(impl, L, below):
    """sliding_window_mask(L, 1 - below), a window of 0 or less, raises ValueError."""
    return impl.sliding_window_mask(L, 1 - below)


@check(points=1, sizes={"L": (1, 2, 6)}, ids=indices("B L", below=3))
def documents_are_causal_and_apart(impl, ids):
    """document_mask, (B, 1, L, L), lets each token see itself and what lies before it in its own document."""
    return impl.document_mask(ids.sort(-1).values)


@check(points=1, after=documents_are_causal_and_apart, sizes={"L": (1, 2, 6)}, ids=indices("B L", below=2))
def documents_may_be_scattered(impl, ids):
    """Equal ids are one document even when other documents lie between them."""
    return impl.document_mask(ids)


@check(points=1, after=documents_may_be_scattered, sizes={"L": (1, 2, 8)}, ids=indices("B L", below=6))
def document_ids_are_any_integers(impl, ids):
    """Document ids may be negative or as large as a hash, and as many as there are tokens; only whether they are equal counts."""
    values = torch.tensor([-1, 1, 0, -100, 2**53, 2**53 + 1])
    many = torch.arange(264 if ids.shape[1] == 1 else 9)[None] - 100  # so many only beside the smallest: loops take their time
    return impl.document_mask(values[ids]), impl.document_mask(many)


@check(points=1, sizes={"prefix": (1, 2, 4), "rest": (1, 2, 4)}, prefix=size("prefix"), rest=size("rest"))
def prefix_is_bidirectional_the_rest_causal(impl, prefix, rest):
    """In prefix_mask(prefix + rest, prefix) the prefix sees itself whole and no more; the rest is causal."""
    return impl.prefix_mask(prefix + rest, prefix)


@check(points=1, after=prefix_is_bidirectional_the_rest_causal, sizes={"L": FEW}, L=size("L"))
def prefix_of_nothing_and_of_all(impl, L):
    """A prefix of L lets everything see everything; an empty one gives the causal mask, also when asked for after that."""
    return impl.prefix_mask(L, L), impl.prefix_mask(L, prefix_len=0), impl.prefix_mask(30 * L, 25 * L)


@check(points=1, after=prefix_is_bidirectional_the_rest_causal, sizes={"L": FEW}, L=size("L"))
def prefix_refuses_what_does_not_fit(impl, L):
    """prefix_mask raises ValueError for a prefix_len below 0 or above L."""
    return [failure(impl.prefix_mask, L, prefix_len)[0] for prefix_len in (-1, L + 1, -L - 1, 2 * L + 1)]


@check(points=1, a=booleans("L S", share=0.8), b=booleans("L S", share=0.8), c=booleans("L S", share=0.8))
def combined_masks_must_all_allow(impl, a, b, c):
    """combine_masks allows what every one of its masks allows, however many there are."""
    return impl.combine_masks(a, b, c), impl.combine_masks(a, a | b, a | c, b | c, a | b | c, ~b | a)


@check(
    points=1,
    after=combined_masks_must_all_allow,
    keys=booleans("B 1 1 S", share=0.8),
    own=booleans("L S", share=0.8),
    heads=booleans("H 1 1", share=0.8),
)
def combined_masks_broadcast(impl, keys, own, heads):
    """combine_masks broadcasts: a mask of the keys with one of queries and keys, in either order, with one per head."""
    return impl.combine_masks(keys, own), impl.combine_masks(own, keys, heads)


@check(points=1, after=combined_masks_must_all_allow, a=booleans("L S", share=0.8), b=booleans("L S", share=0.8))
def combined_masks_may_be_none(impl, a, b):
    """combine_masks skips None, wherever it stands, and a single mask is left as it is."""
    return impl.combine_masks(None, a), impl.combine_masks(a, None, b, None)


@check(points=1, after=combined_masks_must_all_allow, sizes={"nones": (0, 1, 2)}, nones=size("nones"))
def combining_nothing_is_refused(impl, nones):
    """combine_masks raises ValueError without any argument, and when all of them are None."""
    return impl.combine_masks(*[None] * nones)


@check(points=1, scores=normal("B H L S", scale=100.0), mask=booleans("B H L S"), row=index("L"))
def applied_mask_is_minus_infinity(impl, scores, mask, row):
    """apply_mask puts -inf where the mask is False, in a whole row if need be, and keeps the other scores."""
    mask[:, :, row] = False
    return impl.apply_mask(scores, mask)


@check(
    points=1,
    after=applied_mask_is_minus_infinity,
    scores=normal("B H L S"),
    own=booleans("L S"),
    keys=booleans("B 1 1 S"),
    heads=booleans("H L S"),
)
def applied_mask_broadcasts(impl, scores, own, keys, heads):
    """apply_mask takes masks that broadcast to the scores: (L, S) as well as (B, 1, 1, S), (H, L, S) and (S,)."""
    return [impl.apply_mask(scores, mask) for mask in (own, keys, heads, keys[0, 0, 0])]


@check(
    points=1,
    after=applied_mask_is_minus_infinity,
    compare=close(rtol=0.0, atol=0.0),
    sizes={"L": (1, 4)},
    scores=normal("L L"),
    mask=booleans("L L"),
)
def applied_mask_keeps_the_dtype(impl, scores, mask):
    """apply_mask works in float16, bfloat16 and float32, gives back the dtype of the scores, and changes no allowed one."""
    dtypes = torch.float16, torch.bfloat16, torch.float32, torch.float64
    return [impl.apply_mask(large.to(dtype), mask) for large in (scores, 1e4 * scores) for dtype in dtypes]


@check(
    points=1,
    after=(
        padding_mask_allows_the_tokens,
        documents_are_causal_and_apart,
        combined_masks_must_all_allow,
        applied_mask_is_minus_infinity,
    ),
    sizes={"B": (1, 2), "L": (1, 3), "S": (1, 4)},
    scores=normal("B 1 L S"),
    mask=booleans("L S"),
    keys=booleans("B 1 1 S"),
    lengths=indices("B", below="S"),
    ids=indices("B L", below=3),
)
def arguments_are_left_alone(impl, scores, mask, keys, lengths, ids):
    """Scores, masks, lengths and document ids are the same after a call as before it."""
    return {
        "apply_mask": inputs_after(impl.apply_mask, scores, mask),
        "combine_masks": inputs_after(impl.combine_masks, keys.expand(-1, 1, *mask.shape), mask, keys),
        "padding_mask": inputs_after(impl.padding_mask, lengths, keys.shape[-1]),
        "document_mask": inputs_after(impl.document_mask, ids + 1),
    }


@check(
    points=1,
    after=(applied_mask_is_minus_infinity, arguments_are_left_alone),
    sizes={"L": (3,)},
    scores=normal("L L"),
    mask=booleans("L L"),
)
def applied_mask_is_a_new_tensor(impl, scores, mask):
    """apply_mask returns a new tensor even when everything is allowed: writing into it leaves the scores as they were."""
    scores = held(impl.apply_mask, scores, mask)
    masked = held(impl.apply_mask, scores, torch.ones_like(mask))
    masked.fill_(7.0)
    return scores.clone()


@check(points=1, after=arguments_are_left_alone, scores=normal("B L S"), mask=booleans("L S"), seed=seed())
def gradients_reach_the_allowed_scores(impl, scores, mask, seed):
    """What flows back into an allowed score is what came to it: apply_mask does not cut the graph."""
    (gradient,) = gradients(impl.apply_mask, scores, mask, seed=seed)["inputs"]
    return gradient.masked_fill(~mask, 0.0)
