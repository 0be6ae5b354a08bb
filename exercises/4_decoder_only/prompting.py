"""Prompting.

Your team has a language model that continues text, and nothing else. It is to
hold conversations, to solve a task from three examples, to learn from
recorded answers, to forget the oldest of a conversation that has grown too
long, to stop where it is told to, while somebody reads along, and to be asked
several times when once is not safe enough.

All of that happens around the model, in plain Python on strings and lists.
Write the six functions that do it.

A message is a dict with the keys "role" and "content", both strings; a
conversation is a list of messages, the oldest first. No function changes its
arguments.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

Message = dict[str, str]

ROLES = ("system", "user", "assistant")
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>")


def render_chat(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """A conversation as the text that the model was trained on, in ChatML.

    Each message becomes <|im_start|>, its role, a line break, its content,
    <|im_end|> and a line break. The content stays as it is, spaces and line
    breaks at its ends included.

    Args:
        messages: roles may come in any order; a content may be empty.
        add_generation_prompt: whether <|im_start|>assistant and a line break
            follow at the end, where the model is to go on.

    Returns:
        The text.

    Raises:
        ValueError: a role is not one of ROLES, as it is written there; or a
            content holds one of CONTROL_TOKENS, anywhere. Whoever could write
            them could end his turn and speak as somebody else.

    Source: OpenAI 2023, "Chat Markup Language"; Hugging Face, "Chat templates".

    >>> print(render_chat([{"role": "user", "content": "Is 7 prime?"}]))
    <|im_start|>user
    Is 7 prime?<|im_end|>
    <|im_start|>assistant
    <BLANKLINE>
    """
    # TODO: write it as described above.
    raise NotImplementedError


def few_shot_prompt(instruction: str, examples: Sequence[tuple[str, str]], query: str) -> str:
    """An instruction, solved examples, and a query that is left open.

    These are blocks with one empty line between them. The first is the
    instruction; then comes one for each example, in their order, of two lines,
    `Input: ` and its input, `Output: ` and its output; the last one is
    `Input: ` and the query and, on a line of its own, `Output:`. With that
    colon the text ends: a space behind it would be tokenized apart from the
    answer's first word, as nothing that the model has read was.

    Args:
        instruction: the task, not empty.
        examples: pairs of input and output, maybe none.
        query: the input that is to be answered.

    Returns:
        The text. All strings stand in it as they are.

    Source: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.

    >>> print(few_shot_prompt("Name the capital.", [("France", "Paris"), ("Peru", "Lima")], "Kenya"))
    Name the capital.
    <BLANKLINE>
    Input: France
    Output: Paris
    <BLANKLINE>
    Input: Peru
    Output: Lima
    <BLANKLINE>
    Input: Kenya
    Output:
    """
    # TODO: write it as described above.
    raise NotImplementedError


def sft_labels(segments: Sequence[tuple[str, Sequence[int]]], ignore_index: int = -100) -> tuple[list[int], list[int]]:
    """A tokenized conversation, and which of its tokens are to be learned: the assistant's only.

    Args:
        segments: pairs of role and ids, in order; a segment may be empty. The
            <|im_end|> that ends an answer belongs to the assistant's segment,
            so that the model learns to stop, the header before it does not.
        ignore_index: the label of a token that is not to be learned.

    Returns:
        (ids, labels), two lists of the same length: all ids, one segment
        behind the other; at the same place the same id where the role is
        "assistant", else ignore_index. Nothing is shifted: that is done where
        the loss is computed.

    Source: Touvron et al. 2023, "Llama 2", section 3.1.

    >>> sft_labels([("user", [5, 6]), ("assistant", [7]), ("user", [8])])
    ([5, 6, 7, 8], [-100, -100, 7, -100])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def fit_history(messages: Sequence[Message], max_tokens: int, count: Callable[[Message], int]) -> list[Message]:
    """As much of a conversation as fits: the system message and the newest of the others.

    Whole messages are kept or dropped, none is cut. Those kept, beside the
    system message, are an unbroken run up to the last one, the longest that
    fits together with the system message and begins with one of the user's:
    an answer to a question that was dropped must not come first.

    Args:
        messages: the first may be a system message, no other one is; the last
            one is the user's.
        max_tokens: what the messages kept may count together, at most.
        count: the number of tokens of one message, at least 0.

    Returns:
        A new list of the messages kept, in their order.

    Raises:
        ValueError: the last message does not fit, together with the system
            message, if there is one.

    Source: Packer et al. 2023, "MemGPT: Towards LLMs as Operating Systems",
    section 2, for what else can be done than to forget.

    >>> chat = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "ef"}]
    >>> fit_history(chat, max_tokens=5, count=lambda message: len(message["content"]))
    [{'role': 'user', 'content': 'ef'}]
    """
    # TODO: write it as described above.
    raise NotImplementedError


def stop_stream(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Pass a text on while it is being written, up to the first stop string.

    Pieces come one by one, and a stop string may be spread over several. What
    has come is yielded as soon as it is safe: after each piece, before the
    next one is asked for, all has been yielded but the longest end of the text
    that is the beginning of a stop string and may yet become one. When a stop
    string is complete, what stands before it is yielded and all is over: no
    further piece is asked for. If the pieces end without one, the rest is
    yielded.

    Args:
        pieces: what the model writes, of any lengths, empty pieces included;
            it may be an iterator, and endless.
        stops: strings that are not empty, maybe none at all. The first one in
            the text counts, in whatever order they are given. If one lies in
            the middle of another, either may be taken for the first.

    Returns:
        An iterator over texts. Only what has been yielded together at each
        time is fixed, not how it is cut; empty texts may be among it.

    Source: Knuth, Morris and Pratt 1977, "Fast Pattern Matching in Strings",
    section 2, for the longest end that is a beginning.

    >>> "".join(stop_stream(["It is 42.", "\\n", "\\nQ", "uestion: why?"], stops=["\\n\\nQuestion:"]))
    'It is 42.'
    """
    # TODO: write it as described above.
    raise NotImplementedError


def self_consistency(answers: Sequence[str]) -> str:
    """The answer that was given most often, of several samples for one question.

    Args:
        answers: what was read off each sample, in order. Answers are the same
            if the strings are equal; to make "42" of "42." is up to the caller.

    Returns:
        The most frequent one; of several such the one that came first.

    Raises:
        ValueError: there are no answers.

    Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought
    Reasoning in Language Models", section 2.

    >>> self_consistency(["42", "41", "42", "40"])
    '42'
    """
    # TODO: write it as described above.
    raise NotImplementedError
