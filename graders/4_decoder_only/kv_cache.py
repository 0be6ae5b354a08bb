"""What a right key-value cache does."""

import re
from itertools import pairwise

import torch

from kata.grading import (
    at_most,
    check,
    choice,
    cost,
    distinct,
    failure,
    gradients,
    held,
    indices,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

ONE = {"B": (2,), "H": (3,), "D": (1,)}  # where axes are not the subject


def cache_like(impl, k, max_len):
    """A cache for keys such as k."""
    B, H, _, D = k.shape
    return impl.KVCache(B, H, max_len, D, dtype=k.dtype)


def layer_and_cache(impl, x, H, seed, max_len):
    """A layer for x in its dtype, and a cache for it."""
    B, _, M = x.shape
    layer = with_weights(impl.CachedSelfAttention(M, H), seed, x.dtype)
    return layer, impl.KVCache(B, H, max_len, M // H, dtype=x.dtype)


# The memory it takes.


@check(points=1, layers=size("N"), heads=size("G"), dim=size("D"), length=size("L"), batch=size("B"), width=choice(1, 4))
def bytes_are_counted(impl, layers, heads, dim, length, batch, width):
    """kv_cache_bytes counts keys and values, of every head, layer, token and sequence, at 2 bytes a number if not told otherwise."""
    return [
        impl.kv_cache_bytes(layers, heads, dim, length),
        impl.kv_cache_bytes(layers, heads, dim, length, batch),
        impl.kv_cache_bytes(80, 8, 128, 8192 * length, batch=batch, bytes_per_element=width),
    ]


# The cache.


@check(
    points=1,
    sizes={"room": (0, 3)},
    k=normal("B H P D"),
    v=normal("B H P D"),
    more_k=normal("B H N D"),
    more_v=normal("B H N D"),
    room=size("room"),
)
def append_returns_all_so_far(impl, k, v, more_k, more_v, room):
    """append returns the keys and the values of all tokens so far, oldest first, up to the last free place; each cache has its own."""
    append, other = (cache_like(impl, k, k.shape[2] + more_k.shape[2] + room).append for _ in range(2))
    first = append(k, v)
    return [first, other(more_k, more_v), append(more_k, more_v)]


@check(points=1, after=append_returns_all_so_far, sizes={"n": (1, 2)}, n=size("n"))
def length_counts_the_tokens(impl, n):
    """length is the number of tokens held, an int: 0 at first, n more after n more, max_len when the cache is full."""
    cache = impl.KVCache(1, 2, 4 * n, 3)
    append, lengths = cache.append, [cache.length]
    for new in (n, 3 * n):
        append(torch.ones(1, 2, new, 3), torch.ones(1, 2, new, 3))
        lengths.append(cache.length)
    return lengths


@check(
    points=1,
    after=append_returns_all_so_far,
    sizes=ONE | {"L": (1, 3)},
    k=normal("B H L D"),
    v=normal("B H L D"),
    dtype=choice(torch.float16, torch.bfloat16),
)
def dtype_is_the_caches(impl, k, v, dtype):
    """Keys and values come back in the dtype that the cache was made with; that is float32 if none was named."""
    B, H, L, D = k.shape
    plain, half = impl.KVCache(B, H, L, D), impl.KVCache(B, H, L, D, dtype)
    return [plain.append(k.float(), v.float()), half.append(k.to(dtype), v.to(dtype))]


@check(points=1, after=append_returns_all_so_far, length=choice(7), n=choice(6), max_len=choice(12))
def overflow_raises(impl, length, n, max_len):
    """append without room for all raises ValueError, and its text says how many tokens are needed and how many there is room for."""
    append = impl.KVCache(1, 2, max_len, 3).append
    append(torch.ones(1, 2, length, 3), torch.ones(1, 2, length, 3))
    kind, text = failure(append, torch.ones(1, 2, n, 3), torch.ones(1, 2, n, 3))
    numbers = set(map(int, re.findall(r"\d+", text)))
    named = {"tokens needed": numbers & {length + n, n}, "tokens there is room for": numbers & {max_len, max_len - length}}
    return kind, {what: "in the text" if found else "not in the text" for what, found in named.items()}


@check(
    points=1, after=append_returns_all_so_far, sizes=ONE | {"L": (1, 4)}, k=normal("B H L D"), v=normal("B H L D"), many=normal("B H 3 D")
)
def overflow_changes_nothing(impl, k, v, many):
    """An append that was refused leaves the cache as it was: the same length, the same tokens, the same room."""
    cache = cache_like(impl, k, k.shape[2] + 2)
    append = cache.append
    append(k, v)
    refused = failure(append, many, -many)[0]
    return refused, cache.length, append(many[:, :, 1:], many[:, :, :2] + 1)


@check(
    points=1, after=append_returns_all_so_far, sizes=ONE | {"L": (1, 4)}, k=normal("B H L D"), v=normal("B H L D"), other=normal("B H L D")
)
def reset_forgets_all(impl, k, v, other):
    """After reset the length is 0, nothing of the old tokens is left, and there is room for max_len again."""
    cache = cache_like(impl, k, k.shape[2])
    append = cache.append
    append(k, v)
    cache.reset()
    return cache.length, append(other, v - other)


@check(
    points=1,
    after=append_returns_all_so_far,
    sizes=ONE | {"P": (1, 3), "N": (2, 1)},
    k=normal("B H P D"),
    v=normal("B H P D"),
    refused=normal("B H N D"),
    other=normal("B H N D"),
)
def truncate_keeps_the_first(impl, k, v, refused, other):
    """truncate(length) keeps the first tokens, from none to all; what is appended next takes the place of the others."""
    cache = cache_like(impl, k, k.shape[2] + refused.shape[2])
    append, truncate = cache.append, cache.truncate
    append(k, v)
    truncate(k.shape[2])
    append(refused, refused)
    truncate(k.shape[2])
    seen = [cache.length, append(other, other + 1)]
    truncate(0)
    return [*seen, cache.length]


@check(points=1, after=truncate_keeps_the_first, sizes=ONE | {"L": (1, 3)}, k=normal("B H L D"), v=normal("B H L D"))
def truncate_refuses_other_lengths(impl, k, v):
    """truncate raises ValueError below 0 and above the present length, also where there is room, and leaves the cache as it was."""
    cache = cache_like(impl, k, k.shape[2] + 3)
    append, truncate = cache.append, cache.truncate
    append(k, v)
    refused = [failure(truncate, length)[0] for length in (-1, k.shape[2] + 1)]
    return refused, cache.length, append(k + 1, v - 1)


@check(
    points=1,
    after=append_returns_all_so_far,
    sizes=ONE | {"L": (1, 3)},
    k=normal("B H L D"),
    v=normal("B H L D"),
    more=normal("4 B H 1 D"),
)
def forks_go_their_own_ways(impl, k, v, more):
    """fork gives a cache with the same tokens, maybe none, and the same max_len; what is then done to one is not seen in the other."""
    cache = cache_like(impl, k, k.shape[2] + 2)
    append, empty = cache.append, cache.fork()
    append(k, v)
    fork, waiting = cache.fork(), cache.fork()
    append_to_fork, seen = fork.append, [fork.length]
    for i in (0, 2):
        seen += [append(more[i], -more[i]), append_to_fork(more[i + 1], -more[i + 1])]
    seen += [failure(this.append, more[0], more[0])[0] for this in (fork, fork.fork())]
    fork.reset()
    seen += [append_to_fork(k + 1, v + 1), empty.append(more[0], more[1]), cache.length]
    cache.truncate(0)
    append(k - 1, v - 1)
    return [*seen, waiting.append(more[2], more[3])]


@check(points=1, after=append_returns_all_so_far, sizes={"L": (5, 600)}, max_len=size("L"), dtype=choice(torch.float16, torch.bfloat16))
def storage_never_moves(impl, max_len, dtype):
    """append returns views of storage that is made once: it is the same after every append, truncate, fork and reset."""
    cache = impl.KVCache(1, 2, max_len, 3, dtype)
    append = cache.append

    def places(n):
        k = torch.ones(1, 2, n, 3, dtype=dtype)
        return [tensor.data_ptr() for tensor in held(append, k, k)]

    seen = {"first append": places(1), "second append": places(max_len - 2)}
    cache.truncate(2)
    seen["truncate"] = places(1)
    cache.fork()
    seen["fork"] = places(1)
    cache.reset()
    seen["reset"] = places(max_len)
    return {f"storage after {this}": "where it was" if seen[this] == seen[last] else "elsewhere" for last, this in pairwise(seen)}


@check(points=1, after=storage_never_moves, sizes=ONE | {"L": (1, 3)}, k=normal("B H L D"), v=normal("B H L D"), seed=seed())
def no_graph_is_kept(impl, k, v, seed):
    """The cache keeps no autograd graph: no gradient flows back to what was appended, or memory would grow with every step."""
    append = cache_like(impl, k, 2 * k.shape[2]).append
    flowing = gradients(append, k, v, seed=seed)["inputs"]
    return {"gradients": flowing, "requires_grad": [tensor.requires_grad for tensor in held(append, k, v)]}


# The layer.


@check(points=1, sizes={"D": (2,), "H": (1, 3)}, D=size("D"), H=size("H"))
def projections_have_their_names(impl, D, H):
    """The layer's parameters are those of q_proj, k_proj, v_proj and out_proj; with biases only if asked for."""
    return [parameters(impl.CachedSelfAttention(H * D, H, *bias)) for bias in ((), (True,))]


@check(points=1, after=projections_have_their_names, x=normal("B L H*D"), H=size("H"), seed=seed())
def layer_is_causal_self_attention(impl, x, H, seed):
    """Without a cache the layer is causal multi-head self-attention over x, in float32 as in float64, and for large x as well."""
    layer = impl.CachedSelfAttention(x.shape[-1], H, bias=True)
    seen = {"float64": with_weights(layer, seed)(x)}
    large = layer(1000 * x)
    moved = (layer(torch.cat([1000 * x[:, :-1], -1000 * x[:, -1:]], dim=1)) - large)[:, :-1].abs()
    seen["x 1000 times as large"] = f"{large.isfinite().sum()} finite numbers"
    seen["and its last token turned round, the others"] = "change" if bool((moved > 1e-6 * (1 + large.abs().max())).any()) else "stay"
    return seen | {"float32": with_weights(layer, seed, torch.float32)(x.float())}


@check(
    points=1,
    after=layer_is_causal_self_attention,
    sizes={"B": (2,), "H": (2,), "D": (1,), "L": (1, 3)},
    x=normal("B L H*D"),
    H=size("H"),
    seed=seed(),
)
def layer_can_be_trained(impl, x, H, seed):
    """Without a cache gradients flow to x and to all four projections."""
    layer = with_weights(impl.CachedSelfAttention(x.shape[-1], H, bias=True), seed)
    return gradients(layer, x, seed=seed)


@check(
    points=2,
    after=(layer_is_causal_self_attention, append_returns_all_so_far),
    prompt=normal("B P H*D"),
    tokens=normal("2 B 1 H*D"),
    H=size("H"),
    seed=seed(),
)
def decoding_equals_one_pass(impl, prompt, tokens, H, seed):
    """A prompt in one call and then one token a call give what one pass over the whole gives."""
    layer, cache = layer_and_cache(impl, prompt, H, seed, max_len=12)
    return [layer(x, cache) for x in (prompt, *tokens)]


@check(
    points=1,
    after=(layer_is_causal_self_attention, append_returns_all_so_far),
    sizes={"N": (2, 3, 4), "R": (2, 1, 3)},
    first=normal("B P H*D"),
    second=normal("B N H*D"),
    third=normal("B R H*D"),
    H=size("H"),
    seed=seed(),
)
def chunks_equal_one_pass(impl, first, second, third, H, seed):
    """However a sequence is cut into chunks, also several tokens after several, the results are those of one pass.

    A token may be all zeros. If the cache has no room for a chunk the layer raises ValueError.
    """
    second[:, 0] = 0
    chunks = (first, second, third)
    layer, cache = layer_and_cache(impl, first, H, seed, max_len=sum(x.shape[1] for x in chunks))
    outputs = {f"chunk {i}": layer(x, cache) for i, x in enumerate(chunks)}
    return outputs | {"one more token": failure(layer, first[:, :1], cache)[0]}


@check(
    points=1,
    after=(chunks_equal_one_pass, forks_go_their_own_ways, truncate_keeps_the_first),
    sizes={"B": (2,), "H": (2,), "D": (1,), "L": (2, 3)},
    x=normal("B L H*D"),
    others=normal("3 B 2 H*D"),
    H=size("H"),
    seed=seed(),
)
def history_is_all_in_the_cache(impl, x, others, H, seed):
    """One layer serves several caches in turn, and none: a fork, a cache that was cut back, one that was reset, each with its own past."""
    x, others = x.float(), others.float()  # the dtype of the reader's own experiments
    layer, cache = layer_and_cache(impl, x, H, seed, max_len=9)
    layer(x, cache)
    fork = cache.fork()
    seen = [layer(others[0], cache), layer(others[1], fork), layer(others[2])]
    cache.truncate(1)
    fork.reset()
    return [*seen, layer(others[2], cache), layer(others[2], fork)]


@check(
    points=2,
    after=decoding_equals_one_pass,
    compare=at_most(1.1),
    sizes={"t": (4, 32, 96)},
    H=choice(2),
    D=choice(2),
    t=size("t"),
)
def one_more_token_costs_its_share(impl, H, D, t):
    """With t tokens in the cache one more costs O(t) operations, and no tensor is made that is larger than the whole cache."""
    x, k = torch.ones(1, 1, H * D, dtype=torch.float64), torch.ones(1, H, t, D, dtype=torch.float64)
    layer, cache = layer_and_cache(impl, x, H, seed=0, max_len=2 * t)
    cache.append(k, k)
    seen = cost(layer, x, cache)
    whole_cache = 2 * 2 * k.numel()  # a copy of it is no sin
    return seen | {"largest_tensor": max(seen["largest_tensor"], whole_cache)}


# The loop.


@check(points=1, sizes={"N": (1, 2, 4)}, max_new=size("N"), prompt=indices("B L", below="V"), table=distinct("V V"))
def likeliest_tokens_are_added(impl, max_new, prompt, table):
    """generate returns each prompt and behind it max_new tokens, one after the other the likeliest; with max_new = 0 the prompt alone."""

    def step(ids, cache):
        return table[ids]

    return [impl.generate(step, prompt, number, None) for number in (0, max_new)]  # what the cache is, is up to step


@check(
    points=1,
    after=likeliest_tokens_are_added,
    sizes={"N": (0, 1, 3)},
    max_new=size("N"),
    prompt=indices("B L", below="V"),
    table=distinct("V V"),
)
def prompt_is_fed_once(impl, max_new, prompt, table):
    """step is given the whole prompt once and after that only the newest token: max_new calls in all. The prompt is left as it was."""
    calls = []

    def step(ids, cache):
        calls.append(ids)
        return table[ids]

    after = inputs_after(impl.generate, step, prompt, max_new, cache_like(impl, table[None, None], 1))
    return {"fed": calls, "prompt afterwards": after[1]}


@check(
    points=1,
    after=(likeliest_tokens_are_added, chunks_equal_one_pass),
    sizes={"B": (2,), "D": (2,), "H": (2,), "V": (3, 8), "L": (1, 2)},
    embedding=normal("V H*D"),
    prompt=indices("B L", below="V"),
    H=size("H"),
    seed=seed(),
)
def generation_goes_on_from_the_cache(impl, embedding, prompt, H, seed):
    """generate works on the cache that it is given, without a reset: it continues what is in there, a second call what the first wrote."""
    earlier = embedding[prompt]
    layer, cache = layer_and_cache(impl, earlier, H, seed, max_len=12)
    layer(earlier, cache)
    lengths = []

    def step(ids, cache):
        lengths.append(cache.length)
        return layer(embedding[ids], cache) @ embedding.T

    said = [impl.generate(step, prompt, max_new, cache) for max_new in (3, 2)]
    return {"length before each step": lengths, "length at the end": cache.length, "said": said}
