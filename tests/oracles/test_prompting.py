"""Oracles of prompting: Hugging Face's own rendering of ChatML, parsers that read texts back, and brute force over all cases."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rooms import solution

prompting = solution("prompting")
Message = dict[str, str]

# As it stands in tokenizer_config.json of models trained with ChatML; `generation` marks what the assistant says.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

roles = st.sampled_from(["system", "user", "assistant"])
contents = st.text("ab \n<|>_é{%}", max_size=8)
message = st.fixed_dictionaries({"role": roles, "content": contents})


def rendered_by_hugging_face(messages: list[Message], **options: bool) -> tuple[list[str], list[list[tuple[int, int]]]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template([messages], chat_template=CHATML, **options)


@given(messages=st.lists(message, max_size=5), opened=st.booleans())
@settings(max_examples=100, deadline=None)
def test_chatml_is_that_of_hugging_face(messages: list[Message], opened: bool) -> None:
    theirs, _ = rendered_by_hugging_face(messages, add_generation_prompt=opened)
    assert prompting.render_chat(messages, opened) == theirs[0]


@given(messages=st.lists(message, max_size=5))
@settings(max_examples=100, deadline=None)
def test_chatml_can_be_read_back(messages: list[Message]) -> None:
    """Whatever a content holds, short of a control token, the turns are told apart again."""
    turns = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", prompting.render_chat(messages, False), flags=re.DOTALL)
    assert [{"role": role, "content": content} for role, content in turns] == messages


@given(
    messages=st.lists(message, min_size=1, max_size=3),
    place=st.integers(0, 2),
    token=st.sampled_from(["<|im_start|>", "<|im_end|>"]),
    before=contents,
    after=contents,
)
@settings(max_examples=100, deadline=None)
def test_no_content_speaks_as_somebody_else(messages: list[Message], place: int, token: str, before: str, after: str) -> None:
    messages[place % len(messages)]["content"] = before + token + after
    with pytest.raises(ValueError):
        prompting.render_chat(messages)


@pytest.mark.parametrize("role", ["", "sys", "User", "assistant\n", "robot", "system user"])
def test_unknown_roles_are_refused(role: str) -> None:
    with pytest.raises(ValueError):
        prompting.render_chat([{"role": "user", "content": ""}, {"role": role, "content": ""}])


line = st.text("ab {}%:\\", max_size=6)


@given(instruction=st.text("ab", min_size=1), examples=st.lists(st.tuples(line, line), max_size=4), query=line)
@settings(max_examples=100, deadline=None)
def test_few_shot_prompt_can_be_read_back(instruction: str, examples: list[tuple[str, str]], query: str) -> None:
    prompt = prompting.few_shot_prompt(instruction, examples, query)
    first, *blocks = prompt.split("\n\n")
    assert first == instruction
    pairs = [re.fullmatch(r"Input: (.*)\nOutput:(?: (.*))?", block).groups() for block in blocks]
    assert pairs == [*examples, (query, None)]


segments = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.lists(st.integers(0, 9), max_size=4)), max_size=6
)


@given(segments=segments, ignore_index=st.sampled_from([-100, -1, 77]))
@settings(max_examples=100, deadline=None)
def test_labels_are_counted_out(segments: list[tuple[str, list[int]]], ignore_index: int) -> None:
    ids, labels = prompting.sft_labels(segments, ignore_index)
    assert ids == list(itertools.chain.from_iterable(tokens for _, tokens in segments))
    speakers = [role for role, tokens in segments for _ in tokens]
    for token, label, speaker in zip(ids, labels, speakers, strict=True):
        assert label == (token if speaker == "assistant" else ignore_index)


@given(messages=st.lists(message, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_labels_are_where_hugging_face_marks_the_assistant(messages: list[Message]) -> None:
    """With characters as tokens: <|im_end|> of an answer is learned, its header is not."""
    theirs, marks = rendered_by_hugging_face(messages, return_assistant_tokens_mask=True)
    spoken = {i for start, end in marks[0] for i in range(start, end)}
    parts = []
    for each in messages:
        body = each["content"] + "<|im_end|>"
        parts += [("header", f"<|im_start|>{each['role']}\n"), (each["role"], body), ("between", "\n")]
    ids, labels = prompting.sft_labels([(role, [ord(c) for c in text]) for role, text in parts])
    assert "".join(map(chr, ids)) == theirs[0]
    assert {i for i, label in enumerate(labels) if label != -100} == spoken


def test_ignored_labels_are_ignored_by_cross_entropy() -> None:
    ids, labels = prompting.sft_labels([("user", [1, 2]), ("assistant", [3, 4]), ("user", [0])])
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(F.cross_entropy(logits, torch.tensor(labels)), F.cross_entropy(logits[2:4], torch.tensor(ids[2:4])))


def tokens(message: Message) -> int:
    return len(message["content"])


said = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text("ab", max_size=4)), max_size=6)


@given(said=said, last=st.text("ab", max_size=4), system=st.none() | st.text("ab", max_size=3), budget=st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_history_is_the_longest_that_is_allowed(said: list[tuple[str, str]], last: str, system: str | None, budget: int) -> None:
    """Of all ways to drop messages: the longest that is an unbroken run to the end, begins with the user and fits."""
    head = [] if system is None else [{"role": "system", "content": system}]
    rest = [{"role": role, "content": content} for role, content in [*said, ("user", last)]]
    allowed = []
    for chosen in itertools.product([False, True], repeat=len(rest)):
        run = [each for each, take in zip(rest, chosen, strict=True) if take]
        unbroken = chosen == tuple(sorted(chosen)) and chosen[-1]
        if unbroken and run[0]["role"] == "user" and sum(map(tokens, head + run)) <= budget:
            allowed.append(head + run)
    if allowed:
        assert prompting.fit_history(head + rest, budget, tokens) == max(allowed, key=len)
    else:
        assert sum(map(tokens, [*head, rest[-1]])) > budget
        with pytest.raises(ValueError):
            prompting.fit_history(head + rest, budget, tokens)


def before_the_first_stop(text: str, stops: list[str]) -> str:
    """The definition: of all places where a stop string ends the earliest, and of those that end there the longest."""
    ends = [(end, -len(stop)) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    if not ends:
        return text
    end, minus_length = min(ends)
    return text[: end + minus_length]


def complete(text: str, stops: list[str]) -> bool:
    return any(stop in text for stop in stops)


def safe(text: str, stops: list[str]) -> str:
    """What all texts that begin like this one have in common after stopping, tried with every continuation of up to 2 characters."""
    futures = [text + "".join(more) for n in range(3) for more in itertools.product("ab.", repeat=n)]
    results = [before_the_first_stop(future, stops) for future in futures]
    shortest = min(results, key=len)
    return next(shortest[:n] for n in range(len(shortest), -1, -1) if all(result.startswith(shortest[:n]) for result in results))


def in_the_middle(stops: list[str]) -> bool:
    return any(small in large[1:-1] for small in stops for large in stops)


def streamed(pieces: list[str], stops: list[str]) -> tuple[list[str], list[str]]:
    """What has been yielded before each piece is asked for, and what is yielded in all."""
    yielded: list[str] = []
    before: list[str] = []

    def source() -> Iterator[str]:
        for piece in pieces:
            before.append("".join(yielded))
            yield piece
        before.append("".join(yielded))

    for text in prompting.stop_stream(source(), stops):
        yielded.append(text)
    return before, yielded


stop_strings = st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)


@given(pieces=st.lists(st.text("ab.", max_size=3), max_size=6), stops=stop_strings)
@settings(max_examples=200, deadline=None)
def test_stream_is_safe_prompt_and_stops(pieces: list[str], stops: list[str]) -> None:
    assume(not in_the_middle(stops))
    before, yielded = streamed(pieces, stops)
    assert "".join(yielded) == before_the_first_stop("".join(pieces), stops)
    for i, seen in enumerate(before):
        text = "".join(pieces[:i])
        assert not complete(text, stops)  # or this piece would not have been asked for
        assert seen == safe(text, stops)


@given(text=st.text("ab.", max_size=10), stops=stop_strings, cuts=st.lists(st.integers(0, 10), max_size=5))
@settings(max_examples=150, deadline=None)
def test_stream_does_not_depend_on_the_cuts(text: str, stops: list[str], cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert "".join(streamed(pieces, stops)[1]) == before_the_first_stop(text, stops)


def test_stream_takes_an_endless_source() -> None:
    assert "".join(prompting.stop_stream(itertools.cycle(["ab", "", "c"]), ["ca"])) == "ab"


class Words:
    """As much of a tokenizer as StopStringCriteria asks for: ids are words, and nothing stands between them."""

    words = ("a", "b", "ab", "ba", "bb", "aab", "abcdef")

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.words.index(text)]}

    def _convert_id_to_token(self, i: int) -> str:
        return self.words[i]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def test_stream_ends_where_hugging_face_stops() -> None:
    """StopStringCriteria says after which token the text holds a stop string; so many pieces are read."""
    from transformers.generation.stopping_criteria import StopStringCriteria

    generator = torch.Generator().manual_seed(0)
    ends = []
    for stops in (["aba"], ["bbb", "aaa"], ["baab"]):
        criteria = StopStringCriteria(Words(), stops)
        for _ in range(12):
            ids = torch.randint(6, (1, 6), generator=generator)
            pieces = [Words.words[i] for i in ids[0].tolist()]
            ends.append(next((n for n in range(1, 7) if bool(criteria(ids[:, :n], None))), 7))
            assert len(streamed(pieces, stops)[0]) == ends[-1]
    assert len(set(ends)) > 3  # they do end in different places


@given(answers=st.lists(st.sampled_from(["4", "42", "a", "A", ""]), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_vote_is_the_mode(answers: list[str]) -> None:
    """statistics.mode takes the first of several modes, too."""
    assert prompting.self_consistency(answers) == statistics.mode(answers)


def test_vote_without_answers_is_refused() -> None:
    with pytest.raises(ValueError):
        prompting.self_consistency([])
