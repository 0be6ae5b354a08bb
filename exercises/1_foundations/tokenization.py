"""Byte-pair encoding.

A language model reads numbers, not text. The 256 bytes of UTF-8 can write any
text, but make long sequences; words make short ones, but there is no end of
words. Byte-pair encoding lies between the two: it begins with the bytes and
learns which neighbours to join. Write the count of pairs, the training, and a
tokenizer that gives every text back as it was.

Ids 0 to 255 are the bytes themselves; merge number i, counted from 0, makes
the id 256 + i. No function changes its arguments.
"""


def count_pairs(ids: list[int]) -> dict[tuple[int, int], int]:
    """How often each pair of neighbours occurs.

    Occurrences of one pair must not overlap; they are counted from left to
    right, as they would be merged. So [7, 7, 7] holds the pair (7, 7) once,
    and [7, 7, 7, 7] holds it twice.

    Args:
        ids: any integers, any number of them.

    Returns:
        {(left, right): count} of the pairs that occur, in any order.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words
    with Subword Units", section 3.2.

    >>> count_pairs([1, 2, 1, 2, 3])
    {(1, 2): 2, (2, 1): 1, (2, 3): 1}
    """
    # TODO: write it as described above.
    raise NotImplementedError


def train_bpe(data: bytes, num_merges: int) -> list[tuple[int, int]]:
    """The merges that byte-pair encoding learns from data, in order.

    Each step counts the pairs as count_pairs does, takes the most frequent
    one, and puts the new id 256 + i in the place of all its occurrences, from
    left to right. If several are the most frequent, it takes the one with the
    larger pair of byte strings: ids stand for bytes, and the pairs (bytes of
    left, bytes of right) are compared as Python compares tuples of bytes.

    Args:
        data: any bytes, UTF-8 or not; may be empty.
        num_merges: how many merges to learn at most, 0 or more.

    Returns:
        (left, right) ids of each merge. There are fewer than num_merges if
        training comes to a point where no pair occurs twice.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words
    with Subword Units", algorithm 1; on bytes, Radford et al. 2019, "Language
    Models are Unsupervised Multitask Learners", section 2.2.

    >>> train_bpe(b"abcabcab", num_merges=10)
    [(97, 98), (99, 256)]
    """
    # TODO: write it as described above.
    raise NotImplementedError


class BPETokenizer:
    """Texts to ids and back, with the merges of train_bpe.

    Args:
        merges: (left, right) pairs of ids, all different, in the order in
            which they were learned; merge i makes the id 256 + i. Each part
            is a byte or made by an earlier merge.
        special_tokens: {text: id} of texts that are one token each, whatever
            the merges say. The texts are not empty; the ids are not negative,
            not taken by bytes or merges, in no order, and may leave gaps.

    Attributes:
        vocab: {id: bytes} of every id: all 256 bytes, the merges, and the
            special tokens with their texts in UTF-8.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners", section 2.2.

    >>> tokenizer = BPETokenizer([(97, 98), (256, 99)], {"<|end|>": 1000})
    >>> tokenizer.encode("abcab<|end|>é")
    [257, 256, 1000, 195, 169]
    >>> tokenizer.decode([257, 1000, 195, 169])
    'abc<|end|>é'
    >>> tokenizer.vocab[257], tokenizer.vocab[1000]
    (b'abc', b'<|end|>')
    """

    def __init__(self, merges: list[tuple[int, int]], special_tokens: dict[str, int] | None = None) -> None:
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Special tokens come first and are never split: going through the text
        from left to right, at each place the longest special token that
        starts there is taken. Whatever lies between them becomes the bytes of
        its UTF-8, and these are merged: always the first merge of the list
        whose pair is there, occurrences of one pair from left to right, until
        no pair of neighbours is left that a merge joins. Nothing else happens
        to the text: it is not stripped, split into words or normalised.

        The work must not grow with the square of the text's length. That is
        counted, and a text of 40,000 characters is encoded.

        Args:
            text: any text that UTF-8 can write; may be empty.

        Returns:
            A list of ids, plain integers.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        """The text that the ids stand for.

        Args:
            ids: ids of the vocabulary, special tokens included; may be empty.

        Returns:
            The tokens' bytes, joined and then read as UTF-8. Bytes that are
            no UTF-8 become U+FFFD, as with errors="replace" in Python.

        Raises:
            ValueError: an id is not in the vocabulary, -1 for instance.
        """
        # TODO: write it as described above.
        raise NotImplementedError
