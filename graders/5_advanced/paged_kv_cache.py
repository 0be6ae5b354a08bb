"""What a right paged key-value cache does.

Most checks play a script of calls, one a line, such as "append a 3": three
more tokens for sequence a. Which block is used is the answer's own affair.
"""

from collections.abc import Callable

import torch

from kata.grading import beside, check, choice, failure, index, indices, normal, size
from kata.inputs import Sizes, Strategy, names_in

NAMES = "abcd"


# Scripts.


def played(cache, script, contents, heads=2, dim=3):
    """What is seen after each call of a script; of a sequence that is freed, what was seen before it.

    Token i, counted over all that are appended, has keys near i and values
    near -i. Only what a line may provoke is caught: any other exception keeps
    its traceback.
    """
    tokens, seen = 0, {}
    channels = 0.3 * torch.arange(heads)[:, None, None] + 0.1 * torch.arange(dim)

    def state(seq, when=""):
        if not contents:
            return {}
        k, v = cache.gather(seq)
        return {f"length{when}": cache.length(seq), f"keys{when}": k.clone(), f"values{when}": v.clone()}

    for number, line in enumerate(script, start=1):
        call, seq, *other = line.split(" (")[0].split()
        legal = ValueError if "(in use)" in line else KeyError if "(unknown)" in line else MemoryError if call == "append" else ()
        raised, before = "nothing", {}
        if call == "free" and legal == ():
            before = state(seq, " before")
        try:
            if call == "append":
                k = tokens + 1 + torch.arange(int(other[0]))[:, None] + channels
                tokens += k.shape[1]
                cache.append(seq, k, -k)
            else:
                getattr(cache, call)(seq, *other)
        except legal as error:
            raised = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins")
        here = {"raised": raised, "num_free": cache.num_free} | before
        if call in ("add", "append") and "(unknown)" not in line:
            here |= state(seq)
        if call == "fork" and legal == ():
            here |= state(other[0])
        seen[f"{number}: {line}"] = here
    return seen


def play(impl, num_blocks, block_size, script, contents=True):
    """What is seen after each call of a script on a cache of its own."""
    return beside(impl, played)(impl.PagedKVCache(num_blocks, block_size, 2, 3), script, contents)


def free_after(impl, num_blocks, block_size, script):
    """How many blocks are free after each call of a script."""
    return {line: step["num_free"] for line, step in play(impl, num_blocks, block_size, script, contents=False).items()}


def written(block_size: str, write: Callable[[int], list[str]]) -> Strategy:
    """The script that is written for a block size."""
    return Strategy(names_in(block_size), lambda sizes, _: write(sizes[block_size]))


def unknown(seq: str, new: str) -> list[str]:
    """All calls with a name that no sequence has."""
    return [f"{call} (unknown)" for call in (f"append {seq} 1", f"gather {seq}", f"length {seq}", f"free {seq}", f"fork {seq} {new}")]


def calls(number: str) -> Strategy:
    """Any calls in any order; in the end all sequences are freed."""

    def draw(sizes: Sizes, generator: torch.Generator) -> list[str]:
        def below(end: int) -> int:
            return int(torch.randint(end, (), generator=generator))

        alive, script = [], []
        for _ in range(sizes[number]):
            idle = [name for name in NAMES if name not in alive]
            kind, seq = below(12), alive[below(len(alive))] if alive else ""
            if kind < 3 and idle and alive:
                wrong = [f"add {seq} (in use)", f"fork {alive[-1]} {seq} (in use)", *unknown(idle[below(len(idle))], idle[0])]
                script.append(wrong[below(len(wrong))])
            elif idle and (not alive or kind == 3):
                script.append(f"add {idle[0]}")
                alive.append(idle[0])
            elif kind < 6 and idle:
                script.append(f"fork {seq} {idle[0]}")
                alive.append(idle[0])
            elif kind < 8:
                script.append(f"free {seq}")
                alive.remove(seq)
            else:
                script.append(f"append {seq} {1 + below(6)}")
        return script + [f"free {name}" for name in alive]

    return Strategy(names_in(number), draw)


# The allocator.


@check(points=1, sizes={"N": (1, 2, 5)}, N=size("N"))
def each_block_is_handed_out_once(impl, N):
    """allocate hands out each block, an int from 0 to num_blocks - 1, once, and num_free counts the rest; then it raises MemoryError."""
    allocator = impl.BlockAllocator(N)
    left, blocks = [allocator.num_free], []
    for _ in range(N):
        blocks.append(allocator.allocate())
        left.append(allocator.num_free)
    refused = failure(allocator.allocate)[0]
    return {"blocks, sorted": sorted(blocks), "num_free": left, "one more": refused, "num_free then": allocator.num_free}


@check(
    points=1,
    after=each_block_is_handed_out_once,
    sizes={"N": (1, 3, 6), "M": (1, 2, 3)},
    N=size("M*N"),
    freed=indices("M", below="M*N", unique=True),
)
def freed_blocks_are_handed_out_again(impl, N, freed):
    """A block that is freed is free: num_free grows, and allocate hands it out again, once."""
    allocator = impl.BlockAllocator(N)
    for _ in range(N):
        allocator.allocate()
    left = []
    for block in freed.tolist():
        allocator.free(block)
        left.append(allocator.num_free)
    again = sorted(allocator.allocate() for _ in freed)
    return {"num_free": left, "handed out again, sorted": again, "one more": failure(allocator.allocate)[0]}


@check(points=1, after=freed_blocks_are_handed_out_again, sizes={"n": (1, 2, 3)}, n=size("n"))
def shared_blocks_need_as_many_frees(impl, n):
    """A block that is shared n times is free again after n + 1 frees, and is not handed out before."""
    allocator, left = impl.BlockAllocator(2), {}
    block = allocator.allocate()
    for _ in range(n):
        allocator.share(block)
    left["shared"] = allocator.num_free
    for number in range(n):
        allocator.free(block)
        left[f"free {number + 1}"] = allocator.num_free
    other = allocator.allocate()
    refused = failure(allocator.allocate)[0]
    allocator.free(block)
    found = {"num_free": left, "two blocks": other != block, "a third": refused, "num_free in the end": allocator.num_free}
    for _ in range(300):
        allocator.share(other)
    for _ in range(300):
        allocator.free(other)
    return found | {"num_free after 300 more": allocator.num_free, "held still": failure(allocator.free, other)[0]}


@check(points=1, after=freed_blocks_are_handed_out_again, N=choice(2, 3))
def blocks_that_nobody_holds_are_refused(impl, N):
    """free and share raise ValueError for a free block and for a number that no block has, -1 included; nothing changes then."""
    fresh, full, freed = (impl.BlockAllocator(N) for _ in range(3))
    for allocator in (full, freed):
        for _ in range(N):
            allocator.allocate()
    freed.free(1)
    cases = [("handed out never", fresh, 0), ("freed before", freed, 1), ("-1", full, -1), ("num_blocks", full, N)]
    seen = {}
    for name, allocator, block in cases:
        for call in ("free", "share", "free again", "share again"):
            raised = failure(getattr(allocator, call.split()[0]), block)[0]
            seen[f"{call}, block {name}"] = {"raised": raised, "num_free": allocator.num_free}
    return seen | {"allocate afterwards": freed.allocate(), "one more": failure(freed.allocate)[0]}


# One sequence.


@check(
    points=1,
    sizes={"S": (1, 2, 5)},
    first=normal("H P D"),
    second=normal("H N D"),
    third=normal("H R D"),
    block_size=size("S"),
    name=choice(7, 0, "", -1),
)
def tokens_come_back_in_order(impl, first, second, third, block_size, name):
    """gather gives the keys and the values of all tokens appended so far, oldest first, (H, t, D) each; length counts them."""
    H, _, D = first.shape
    cache, other = (impl.PagedKVCache(24, block_size, H, D, dtype=torch.float64) for _ in range(2))
    cache.add(name)
    other.add(name)
    other.append(name, first + 1, first + 2)
    seen = {}
    for what, k in {"nothing": None, "first": first, "second": second, "third": third}.items():
        if k is not None:
            cache.append(name, k, 10 - k)
        keys, values = cache.gather(name)
        seen[f"{what} appended"] = {"length": cache.length(name), "keys": keys, "values": values}
    many, counted = impl.PagedKVCache(300, 1, 1, 1), torch.arange(300.0).view(1, -1, 1)
    many.add(name)
    many.append(name, counted, -counted)
    return seen | {"another cache": other.gather(name), "300 blocks": many.gather(name)}


def other_bits(cache, dtype, n):
    """How many numbers come back from a cache with other bits than they had, the largest and the smallest among them."""
    info, bits = torch.finfo(dtype), {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    numbers = [info.max, -info.max, info.tiny, 1 + info.eps, -1 - info.eps, info.max / 3]
    k = torch.tensor(numbers, dtype=dtype).view(2, 1, 3).repeat(1, n, 1)
    cache.add("bits")
    cache.append("bits", k, -k)
    return [int((new.view(bits) != old.view(bits)).sum()) for new, old in zip(cache.gather("bits"), (k, -k), strict=True)]


@check(points=1, after=tokens_come_back_in_order, sizes={"H": (2,), "D": (3,), "n": (1, 5)}, k=normal("H n D"))
def dtype_is_the_caches(impl, k):
    """Keys and values come back bit by bit, in the dtype that the cache was made with; that is float32 if none was named."""
    seen = {}
    for dtype in (None, torch.float16, torch.bfloat16, torch.float64):
        options = {"dtype": dtype} if dtype else {}
        cache = impl.PagedKVCache(8, 2, *k.shape[::2], **options)
        cache.add("a")
        cache.append("a", k.to(dtype or torch.float32), k.to(dtype or torch.float32))
        came = {
            "gathered": cache.gather("a"),
            "numbers with other bits": beside(impl, other_bits)(cache, dtype or torch.float32, k.shape[1]),
        }
        seen[str(dtype or "none named").removeprefix("torch.")] = came
    return seen


def by_and_by(S: int) -> list[str]:
    """Two sequences that grow by turns, up to and over the ends of blocks."""
    return ["add a", "add b", "append a 1", f"append b {S}", f"append a {S}", "append b 1", f"append a {3 * S - 1}", f"append b {2 * S}"]


@check(points=1, after=tokens_come_back_in_order, sizes={"S": (1, 3)}, block_size=size("S"), script=written("S", by_and_by))
def blocks_are_taken_as_they_are_needed(impl, block_size, script):
    """A sequence of t tokens holds ceil(t / block_size) blocks, none if it has no token, however the tokens came."""
    return free_after(impl, 60, block_size, script)


# Several sequences.


def in_each_others_blocks(S: int) -> list[str]:
    """Sequences of which some get blocks that another had, so that they lie in any order."""
    script = ["add a", f"append a {2 * S}", "add b", f"append b {2 * S}", "free a", f"append b {S + 1}", "add c", f"append c {S + 2}"]
    return [*script, "append b 2", "append c 3", "append b 1"]


@check(points=1, after=tokens_come_back_in_order, sizes={"S": (1, 3)}, block_size=size("S"), script=written("S", in_each_others_blocks))
def sequences_keep_apart(impl, block_size, script):
    """Each sequence has its own tokens in their order, also in blocks that another had before."""
    return play(impl, 30, block_size, script)


def freed_and_begun_anew(S: int) -> list[str]:
    return ["add a", f"append a {2 * S + 1}", "free a", "add b", "free b", "add a", "append a 2", "free a", "add b", "append b 1"]


@check(
    points=1,
    after=blocks_are_taken_as_they_are_needed,
    sizes={"S": (1, 3)},
    block_size=size("S"),
    script=written("S", freed_and_begun_anew),
)
def freed_sequences_leave_nothing(impl, block_size, script):
    """free gives all blocks of a sequence back; its name may be used again, and that sequence begins empty."""
    return play(impl, 12, block_size, script)


# When blocks run out.


def six_blocks(S: int) -> list[str]:
    """Appends of which some do not fit into six blocks."""
    script = ["add a", "add b", f"append a {6 * S + 1} (too many)", f"append a {2 * S + 1}", "append b 1"]
    script += [f"append a {3 * S + 1} (too many)", f"append b {4 * S} (too many)", f"append a {3 * S - 1}", f"append b {S} (too many)"]
    script += [f"append b {S - 1}"] if S > 1 else []
    return [*script, "append a 1 (too many)", "free a", f"append b {5 * S}", "append b 1 (too many)", "free b"]


@check(
    points=2, after=sequences_keep_apart, sizes={"S": (1, 4)}, block_size=size("S"), num_blocks=choice(6), script=written("S", six_blocks)
)
def a_refused_append_changes_nothing(impl, block_size, num_blocks, script):
    """An append for which blocks are lacking, some or all, raises MemoryError; tokens, lengths and free blocks are as before."""
    return play(impl, num_blocks, block_size, script)


# Forks.


def forked_and_freed(S: int) -> list[str]:
    script = ["add a", f"append a {2 * S + 1}", "fork a b", "fork b c", "free a", "fork c a", "free b", "free c", "free a"]
    return [*script, "add a", "fork a b"]


@check(points=1, after=sequences_keep_apart, sizes={"S": (1, 3)}, block_size=size("S"), script=written("S", forked_and_freed))
def forks_share_all_blocks(impl, block_size, script):
    """A fork has the same tokens and takes no block; blocks that it shares stay when one of the two is freed."""
    return play(impl, 20, block_size, script)


def forked_and_written(S: int) -> list[str]:
    """Forks of a last block that is not full, unless S is 1, and of one that is; all write to theirs."""
    script = ["add a", f"append a {S + 1}", "fork a b", "fork a c", "append b 1", "append b 1", "append a 2", "fork b d"]
    script += ["append c 1", "append d 1", "append a 1", "append b 1"]
    script += ["add p", f"append p {S + 1}", *(f"fork p {seq}" for seq in "qrst"), *(f"append {seq} 1" for seq in "qprst")]
    return [
        *script,
        "add x",
        f"append x {S}",
        "fork x y",
        "append y 1",
        "append x 2",
        "append y 1",
        *(f"fork {seq} {seq}2" for seq in "abcdxy"),
    ]


@check(points=2, after=forks_share_all_blocks, sizes={"S": (1, 4)}, block_size=size("S"), script=written("S", forked_and_written))
def forks_go_their_own_ways(impl, block_size, script):
    """What is appended to a sequence is not seen in its forks, nor what is appended to a fork in the others."""
    seen = play(impl, 40, block_size, script)
    return {line: {name: value for name, value in step.items() if name != "num_free"} for line, step in seen.items()}


def forked_written_and_freed(S: int) -> list[str]:
    return [*forked_and_written(S), "append c 1", "free c", "append c2 1", *(f"free {name}" for name in "abdxy"), "append b2 1"]


@check(points=2, after=forks_go_their_own_ways, sizes={"S": (1, 4)}, block_size=size("S"), script=written("S", forked_written_and_freed))
def only_a_shared_last_block_is_copied(impl, block_size, script):
    """The first to write to a shared last block that is not full gets a copy, one block; the last holder writes to the old one."""
    return free_after(impl, 40, block_size, script)


def four_blocks(S: int) -> list[str]:
    """Forks in four blocks that are soon all held."""
    script = ["add a", f"append a {S + 1}", "fork a b", "add c", f"append c {S}", f"append b {S} (copy and new block, one free)"]
    script += ["append b 1", "append a 1", "fork a d", "append a 1 (copy, none free)", "append d 1 (copy, none free)", "free a"]
    return [*script, "append d 1", f"append b {S} (new block, none free)", "free c", f"append d {S}", "free b", "free d"]


@check(
    points=1,
    after=only_a_shared_last_block_is_copied,
    sizes={"S": (3, 5)},
    block_size=size("S"),
    num_blocks=choice(4),
    script=written("S", four_blocks),
)
def a_copy_needs_a_free_block(impl, block_size, num_blocks, script):
    """A copy counts among the blocks that an append takes; who alone holds the last block needs none to go on in it."""
    return play(impl, num_blocks, block_size, script)


# Names.


def lengths_by_name(cache):
    """The lengths of sequences, of which the first has one token, the second two and so on."""
    names = [1, "1", (1,), "(1,)", -1, -2, None]
    for number, name in enumerate(names, start=1):
        cache.add(name)
        for _ in range(min(number, 2)):
            cache.append(name, torch.zeros(2, 1, 3), torch.zeros(2, 1, 3))
    return [cache.length(name) for name in names]


def wrongly_named(S: int) -> list[str]:
    script = ["add a", "append a 3", "add b", "append b 1", "fork a c", *unknown("d", "e")]
    script += [f"{call} (in use)" for call in ("add b", "add c", "fork b c", "fork c b", "fork c c")]
    return [*script, "append b 1", "append c 1", "free a", *unknown("a", "e"), "append b 1", "append c 1"]


@check(points=1, after=forks_share_all_blocks, sizes={"S": (2,)}, block_size=size("S"), script=written("S", wrongly_named))
def wrong_names_are_refused(impl, block_size, script):
    """A name that no sequence has raises KeyError, one in use for add or fork ValueError, and nothing changes."""
    return play(impl, 12, block_size, script) | {
        "names that are nearly alike": beside(impl, lengths_by_name)(impl.PagedKVCache(12, 2, 2, 3))
    }


# What is kept.


def storages_of(holder, small):
    """Where keys and values may be held by a cache, its class or its file, and for how many bytes there is room.

    What holds no fractions, and not more than the keys of one token take, may be a table of blocks.
    """
    import gc
    import types

    import numpy

    kind = holder if isinstance(holder, type) else type(holder)
    found, numbers, seen, waiting = {}, 0, set(), [holder, kind]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float):
            numbers += 1
        if isinstance(value, (bytes, bytearray)) and len(value) > small:
            found[id(value)] = len(value)
        if id(value) in seen or isinstance(value, (str, bytes, bytearray, int, float, types.ModuleType, types.CodeType)):
            continue
        if isinstance(value, (type, types.FunctionType)) and value.__module__ != kind.__module__:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if value.is_floating_point() or storage.nbytes() > small:
                found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, numpy.ndarray):
            while isinstance(value.base, numpy.ndarray):
                value = value.base
            if value.dtype.kind == "f" or value.nbytes > small:
                found[value.ctypes.data] = value.nbytes
        else:
            waiting += gc.get_referents(value)  # attributes and slots, items, closures, the globals of functions
    return found | ({"Python floats": 4 * numbers} if numbers > 20 else {})


@check(points=1, after=forks_share_all_blocks, sizes={"S": (2, 3)}, block_size=size("S"))
def the_pool_is_made_once(impl, block_size):
    """Keys and values are kept in the pool alone: it is made in the constructor, has room for num_blocks blocks, and never moves."""
    storages, small = beside(impl, storages_of), 2 * 4 * 400
    in_the_file = storages(impl.PagedKVCache, small)
    cache = impl.PagedKVCache(8, block_size, 2, 400)
    before = storages(cache, small)
    script = ["add a", "append a 7", "fork a b", "append b 1", "add c", "append c 4", "free a", "append b 2", "fork b d"]
    beside(impl, played)(cache, script, True, 2, 400)
    after = storages(cache, small)
    in_a_block = 2 * 2 * 400 * block_size * 4  # bytes of its keys and values, in float32
    return {
        "storages made after the constructor": len(after.keys() - before.keys()),
        "room for far more than num_blocks blocks": sum(after[at] for at in after.keys() - in_the_file.keys()) > 10 * in_a_block,
    }


def kept(cache, first, second):
    """What was gathered, when the cache has gone on; what is in the cache, when that was written to; what has a graph."""
    for seq, k in (("one token", first[:, :1]), ("all tokens", first)):
        cache.add(seq)
        cache.append(seq, k.clone().requires_grad_(), (10 - k).requires_grad_())
    gathered = {seq: cache.gather(seq) for seq in ("one token", "all tokens")}
    graph = [each.requires_grad for pair in gathered.values() for each in pair]
    for seq in gathered:
        cache.free(seq)
    for seq, k in (("one token", second[:, :1]), ("all tokens", second)):
        cache.add(seq)
        cache.append(seq, k, 10 - k)
    written = [each for seq in gathered for each in cache.gather(seq)]
    with torch.inference_mode():
        for each in written:
            each += 1
    return {"requires_grad": graph, "gathered before": gathered, "in the cache": {seq: cache.gather(seq) for seq in gathered}}


@check(
    points=1,
    after=freed_sequences_leave_nothing,
    sizes={"L": (3, 5)},
    first=normal("2 L 3", dtype=torch.float32),
    second=normal("2 L 3", dtype=torch.float32),
)
def gathered_tensors_are_new(impl, first, second):
    """What gather gave does not change with the cache, nor the cache with it, and no autograd graph is kept."""
    return beside(impl, kept)(impl.PagedKVCache(4, 2, 2, 3), first, second)


# Whatever the order.


@check(
    points=2,
    after=(a_refused_append_changes_nothing, a_copy_needs_a_free_block, wrong_names_are_refused),
    sizes={"calls": (6, 12, 24)},
    script=calls("calls"),
    num_blocks=index(12, start=4),
    block_size=index(5, start=1),
    draws=3,
)
def any_calls_in_any_order_work(impl, script, num_blocks, block_size):
    """Whatever is called in whatever order, also what is refused, results are right, no block is lost, and none is counted twice."""
    return play(impl, num_blocks, block_size, script)
