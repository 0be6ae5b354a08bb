"""What a right byte-pair encoding does."""

import torch

from kata.grading import at_most, beside, check, choice, failure, indices, inputs_after, size, steps, text
from kata.inputs import Sizes, Strategy, names_in, shape_of

TWICE = [(98, 99), (97, 98), (257, 99), (97, 256)]  # bc, ab, and abc in two ways, of which only the second is ever taken
ABC = [(97, 98), (98, 99), (256, 99), (97, 257)]  # ab, bc, ab·c, a·bc
SEPARATORS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def apart(words: list[bytes], generator: torch.Generator) -> bytes:
    """The words in random order, each followed by a byte that occurs nowhere else."""
    order = torch.randperm(len(words), generator=generator).tolist()
    ends = torch.randperm(len(SEPARATORS), generator=generator).tolist()
    return b"".join(words[i] + SEPARATORS[end : end + 1] for i, end in zip(order, ends, strict=False))


def untied() -> Strategy:
    """Data in which no two pairs that occur twice are equally frequent, at any point of the training."""

    def draw(sizes: Sizes, generator: torch.Generator) -> bytes:
        a, b, c, d, x, y = (bytes([97 + i]) for i in torch.randperm(26, generator=generator)[:6].tolist())
        return apart([a + b] * 7 + [a + b + c] * 5 + [a + b + c + d] * 3 + [x + y] * 4, generator)

    return Strategy((), draw)


def tied(words: str, letters: bytes = b"a\x9f\xe9") -> Strategy:
    """Words of two or three letters, two of them no UTF-8, each word twice, so that many pairs are equally frequent."""

    def draw(sizes: Sizes, generator: torch.Generator) -> bytes:
        several = [[letters[i] for i in torch.randint(len(letters), (3,), generator=generator)] for _ in range(sizes[words])]
        cut = torch.randint(2, 4, (sizes[words],), generator=generator).tolist()
        return apart([bytes(word[:n]) for word, n in zip(several, cut, strict=True)] * 2, generator)

    return Strategy(names_in(words), draw)


def merges(number: str | int, letters: str) -> Strategy:
    """Merges, all different, of the letters' bytes and of one another; bytes more often, so that many can be applied."""

    def draw(sizes: Sizes, generator: torch.Generator) -> list[tuple[int, int]]:
        letter_bytes = sorted(set(letters.encode()))
        found: list[tuple[int, int]] = []
        while len(found) < shape_of(str(number), sizes)[0]:
            parts = 2 * letter_bytes + list(range(256, 256 + len(found)))
            left, right = (parts[i] for i in torch.randint(len(parts), (2,), generator=generator).tolist())
            if (left, right) not in found:
                found.append((left, right))
        return found

    return Strategy(names_in(str(number)), draw)


@check(points=1, sizes={"n": (0, 1, 7)}, ids=indices("n", below=3), start=choice(0, 255, 7000), draws=2)
def pairs_of_neighbours_are_counted(impl, ids, start):
    """count_pairs says how often each pair of neighbours occurs, and names no others."""
    ids = (start + (ids + 1).cumsum(0) % 4).tolist()  # no two neighbours are equal
    return impl.count_pairs(ids)


@check(
    points=1, after=pairs_of_neighbours_are_counted, sizes={"run": (2, 3, 6), "n": (1, 3, 9)}, run=size("run"), ids=indices("n", below=2)
)
def overlapping_pairs_count_once(impl, run, ids):
    """In a run of equal ids the pairs do not overlap: [7, 7, 7] holds one pair, [7, 7, 7, 7] holds two."""
    return impl.count_pairs([7] * run + [8] + [7] * (run + 1)), impl.count_pairs(ids.tolist())


@check(points=2, sizes={"merges": (1, 2, 4)}, data=untied(), num_merges=size("merges"), draws=2)
def the_most_frequent_pair_is_merged(impl, data, num_merges):
    """train_bpe merges the most frequent pair into 256 + i, counts anew, and goes on so num_merges times."""
    return impl.train_bpe(data, num_merges=num_merges)


@check(points=2, after=the_most_frequent_pair_is_merged, sizes={"words": (2, 3, 6)}, data=tied("words"), draws=5)
def ties_go_to_the_larger_bytes(impl, data):
    """Among equally frequent pairs train_bpe takes the largest (bytes of left, bytes of right)."""
    return impl.train_bpe(data, 4)


@check(points=1, after=the_most_frequent_pair_is_merged, sizes={"n": (0, 1, 12)}, data=text("n", "aab"), draws=3)
def training_stops_when_no_pair_occurs_twice(impl, data):
    """train_bpe stops early when no pair occurs twice, at once for empty data; 0 merges are none."""
    data = data.encode()
    return impl.train_bpe(data, 0), impl.train_bpe(data + b"xyx" + data, 99), impl.train_bpe(data, 99)


@check(points=1, after=training_stops_when_no_pair_occurs_twice, sizes={"n": (1, 2, 8)}, data=text("n", "a \n"), draws=2)
def training_knows_no_words(impl, data):
    """To train_bpe spaces and line ends are bytes like any other: pairs reach across them, at both ends of the data too."""
    texts = " \n" + data + "\t \t \n", "\r\n" + data + "\r\n", "to be, " * 3 + data
    return [impl.train_bpe(text.encode(), 9) for text in texts]


@check(points=1, after=the_most_frequent_pair_is_merged, sizes={"n": (2, 3, 8)}, n=size("n"), byte=choice(0, 97, 128, 255), draws=2)
def training_merges_runs_without_overlap(impl, n, byte):
    """In training too the pairs of a run do not overlap, and they are merged from the left; any byte will do."""
    run = bytes([byte])
    return impl.train_bpe(run * n, 3), impl.train_bpe(run * (2 * n + 1) + b"-" + run * n + b"-" + run, 4)


@check(points=1, sizes={"m": (0, 1, 5)}, merges=merges("m", "abé"), last=choice(300, 100_257))
def vocab_holds_every_id(impl, merges, last):
    """vocab is the dict from every id, bytes, merges and special tokens alike, to its bytes."""
    return impl.BPETokenizer(merges, special_tokens={"<|é|>": last, "<s>": 290}).vocab, impl.BPETokenizer(merges).vocab


@check(points=1, sizes={"n": (0, 1, 9)}, text=text("n"), draws=2)
def text_becomes_utf8(impl, text):
    """Without merges the ids are the bytes of the text in UTF-8, nothing stripped and nothing changed."""
    encode = impl.BPETokenizer([]).encode
    return encode(text), encode("\ufeff A\t\r\n" + text + "e\u0301\t ")


@check(
    points=2,
    after=text_becomes_utf8,
    sizes={"m": (1, 3, 6), "n": (2, 7, 16)},
    merges=merges("m", "ab"),
    text=text("n", "ab"),
    draws=2,
)
def the_first_merge_comes_first(impl, merges, text):
    """encode always applies the earliest merge of the list whose pair is there, until none is."""
    encode = impl.BPETokenizer(merges).encode
    return encode(text), encode(text[::-1]), impl.BPETokenizer(TWICE).encode(text + "abcab")


@check(points=1, after=the_first_merge_comes_first, sizes={"n": (3, 5, 11)}, n=size("n"), second=choice((256, 256), (256, 97), (97, 256)))
def runs_are_merged_from_the_left(impl, n, second):
    """In a run of one character encode merges from left to right: aaa with the merge (a, a) is [aa, a]."""
    return impl.BPETokenizer([(97, 97), second]).encode("a" * n)


@check(
    points=1,
    after=the_first_merge_comes_first,
    sizes={"m": (1, 3, 6), "n": (1, 4, 9)},
    merges=merges("m", "éè"),
    text=text("n", "éè"),
)
def merges_join_any_bytes(impl, merges, text):
    """Merges join bytes, inside a character of several bytes and across characters, words and lines."""
    return impl.BPETokenizer(merges).encode(text), impl.BPETokenizer([(110, 32), (32, 10), (256, 97)]).encode("an an  \nan a\n")


SPECIAL_TEXTS = ("<s>", "<|end|>", "🙂é", "<", "s>", "<S>", "|", " ", "ab", "é")


@check(points=1, after=text_becomes_utf8, sizes={"n": (1, 3, 9)}, text=text("n", SPECIAL_TEXTS), first=choice(260, 100_257), draws=2)
def special_tokens_are_one_id(impl, text, first):
    """A special token is its one id wherever it stands, however merges would join its bytes; the rest is merged as usual."""
    merges = [(60, 115), (62, 60), (256, 62), (97, 98)]  # <s, ><, <s>, ab
    encode = impl.BPETokenizer(merges, {"<s>": first + 5, "<|end|>": first, "🙂é": first + 2}).encode
    return encode(text), encode("ab<s> " + text + " <s>ab")


@check(
    points=1,
    after=special_tokens_are_one_id,
    sizes={"n": (1, 2, 6)},
    text=text("n", ("ab", "cd", "a", "bcd", "aaa", "b")),
    draws=2,
)
def the_longest_special_token_of_a_place_is_taken(impl, text):
    """From left to right, the longest special token that starts at a place is taken, in whatever order they were given."""
    text = "abcdaba" + text + "aab"
    specials = {"ab": 301, "aba": 302, "bcd": 303, "aaa": 304, "aa": 305}
    otherwise = dict(reversed(specials.items()))
    return [impl.BPETokenizer([(98, 97), (99, 100)], special_tokens).encode(text) for special_tokens in (specials, otherwise)]


@check(
    points=1,
    after=special_tokens_are_one_id,
    sizes={"n": (1, 2, 6)},
    text=text("n", ("a.c", "abc", "[x]", "x", "+", "\\n", "\n", "(", "|")),
)
def special_tokens_are_plain_texts(impl, text):
    """The characters of a special token stand for themselves; they are no pattern."""
    names = ["a.c", "[x]", "+", "\\n", "(", "^", "$", "x|"]
    return impl.BPETokenizer(ABC, {name: 400 - i for i, name in enumerate(names)}).encode(text)


@check(points=1, sizes={"n": (0, 1, 6)}, picked=indices("n", below=7), special=choice(260, 50_256))
def decode_joins_the_tokens(impl, picked, special):
    """decode joins the texts of bytes, merges and special tokens."""
    known = [97, 99, 32, 256, 258, 259, special]
    return impl.BPETokenizer(ABC, {"<|é|>": special}).decode([known[i] for i in picked.tolist()])


@check(points=1, after=decode_joins_the_tokens, sizes={"n": (1, 2, 8)}, text=text("n"), draws=2)
def characters_may_be_split_over_tokens(impl, text):
    """decode joins the bytes of all tokens before it reads them: a character may be split over several."""
    ids = list(("\ufeff" + text + "é🙂\x00\r\n ").encode())
    decode = impl.BPETokenizer([(159, 153)]).decode
    return decode(ids), decode([195, 169, 240, 256, 130])


@check(points=1, after=decode_joins_the_tokens, sizes={"n": (1, 3, 8)}, picked=indices("n", below=7), draws=3)
def bytes_that_are_no_text_are_replaced(impl, picked):
    """decode gives U+FFFD for bytes that are no UTF-8, as errors="replace" does, and raises nothing."""
    known = [97, 0xC3, 0xA9, 0xF0, 0x9F, 0xFF, 256]
    return impl.BPETokenizer([(0x9F, 0x99)]).decode([known[i] for i in picked.tolist()])


@check(points=1, after=decode_joins_the_tokens, sizes={"m": (0, 1, 4)}, m=size("m"))
def unknown_ids_are_refused(impl, m):
    """decode raises ValueError for an id that is not in the vocabulary: -1, between the others, past the last."""
    decode = impl.BPETokenizer(ABC[:m], {"<s>": 300}).decode
    return [failure(decode, ids)[0] for ids in ([-1], [97, 299, 97], [256 + m], [300, -256], [97, 100_000])]


def encoded_again(tokenizer, text):
    """What encode gives when the list that it gave before has been written into."""
    ids = tokenizer.encode(text)
    if isinstance(ids, list):
        ids.append(-1)
    return tokenizer.encode(text)


@check(
    points=1,
    after=(the_first_merge_comes_first, special_tokens_are_one_id, decode_joins_the_tokens),
    sizes={"n": (1, 8)},
    text=text("n", ("ab", "bc", "a", "<s>")),
)
def nothing_is_kept_or_changed(impl, text):
    """Calls and tokenizers leave each other and their arguments alone."""
    one, other = impl.BPETokenizer(ABC, {"<s>": 300}), impl.BPETokenizer(ABC[1:2])
    again = [one.encode(text), one.encode("b" + text), other.encode(text), one.encode(text), one.decode([300, 256])]
    arguments = {
        "BPETokenizer": inputs_after(impl.BPETokenizer, ABC, {"<s>": 300}),
        "count_pairs": inputs_after(impl.count_pairs, [7, 7, 7, 8]),
        "decode": inputs_after(one.decode, [97, 300, 257]),
    }
    return again, other.vocab, arguments, beside(impl, encoded_again)(one, text)


COST_MERGES = [(97, 98), (99, 97), (256, 99), (258, 257), (98, 98), (256, 256)]
SQUARE = 7.0  # four times the text takes about 4 times the work; with the square of its length it takes 16


def growth(impl, piece):
    """How many times as much work a text of four times the length takes."""
    encode = impl.BPETokenizer(COST_MERGES, {"<s>": 300}).encode
    short, long = (steps(encode, piece * times) for times in (8, 32))
    return round(long / short, 1)


@check(points=2, after=(the_first_merge_comes_first, special_tokens_are_one_id), compare=at_most(SQUARE / 4.0), word=text(12, "abc"))
def work_does_not_grow_with_the_square(impl, word):
    """Four times the text, with special tokens or without, takes encode about four times the work in lines executed, not sixteen."""
    piece = "abcab" + word
    return {"growth_of_the_work": growth(impl, piece + "<s>"), "growth_without_special_tokens": growth(impl, piece)}


@check(points=1, after=work_does_not_grow_with_the_square, word=text(12, "abc"))
def long_texts_are_encoded(impl, word):
    """encode takes a text of 40,000 characters, `abcab`, the word and `<s>` over and over, in its stride."""
    if growth(impl, "abcab" + word + "<s>") > SQUARE:  # it would not come to an end
        return "grows with the square"
    ids = impl.BPETokenizer(COST_MERGES, {"<s>": 300}).encode(("abcab" + word + "<s>") * 2000)
    return {"tokens": len(ids), "last": ids[-9:]}
