"""The real runs: their texts, what they measure, and what they say."""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from rooms import ROOMS

from kata import digits, retrieval, writing
from kata.corpus import make_numbers, make_opticks, make_vectors
from kata.implementation import ImplementationRaised
from kata.train import RUNS, TOPICS, findings, outcome, pages, progress_in_finding, progress_in_reading, progress_in_seeing, sheet
from kata.translation import MARK, Run, padded, read_corpus, translate


def test_the_corpus_is_what_its_script_makes() -> None:
    assert make_numbers.FILE.read_text(encoding="utf-8").splitlines() == make_numbers.lines()


def test_no_held_out_number_was_seen() -> None:
    training, held_out, _, _ = read_corpus()
    assert len(training.english) >= 2000 and len(held_out.english) == 400
    assert not set(training.english) & set(held_out.english)
    assert not set(training.german) & set(held_out.german)


@pytest.mark.parametrize(
    "number, english, german",
    [
        (0, "zero", "null"),
        (1, "one", "eins"),
        (21, "twenty one", "ein und zwanzig"),
        (101, "one hundred one", "ein hundert eins"),
        (1000, "one thousand", "ein tausend"),
        (7017, "seven thousand seventeen", "sieben tausend siebzehn"),
        (9342, "nine thousand three hundred forty two", "neun tausend drei hundert zwei und vierzig"),
    ],
)
def test_numbers_are_spelt_as_people_do(number: int, english: str, german: str) -> None:
    assert (" ".join(make_numbers.english(number)), " ".join(make_numbers.german(number))) == (english, german)


def test_sentences_survive_their_ids() -> None:
    training, _, english, german = read_corpus()
    for language, sentences in ((english, training.english), (german, training.german)):
        assert [language.sentence(language.ids(sentence)) for sentence in sentences[:50]] == list(sentences[:50])
    assert padded([[5], [6, 7, 8]]).tolist() == [[5, 0, 0], [6, 7, 8]]


def test_a_short_run_learns_and_reports() -> None:
    reports: list[tuple[int, float]] = []
    run = translate(ROOMS["transformer"].reference, lambda step, loss: reports.append((step, loss)), steps=40)
    assert len(run.losses) == 40 and len(run.samples) == 400
    assert [step for step, _ in reports] == [0, 10, 20, 30, 39]
    assert run.losses[0] > 3 > 2 > run.losses[-1]
    assert run.exact == sum(wanted == came for _, wanted, came in run.samples) / 400
    assert not run.passed and not math.isnan(run.losses[-1])


def test_a_model_that_leaks_is_told_so() -> None:
    leaking = next(m for m in ROOMS["transformer"].mistakes if m.id == "no-causal-mask")
    run = translate(leaking.implementation, lambda step, loss: None, steps=120)
    assert run.exact < MARK
    assert "does the decoder see the tokens that it is to predict?" in outcome(run).plain


def test_a_model_that_learns_nothing_is_told_so() -> None:
    assert "do gradients reach all weights" in outcome(Run([3.0] * 30, [("one", "eins", "")], 0.0)).plain
    assert "are translated exactly" in outcome(Run([0.01] * 30, [("one", "eins", "eins")], 1.0)).plain


def test_only_topics_of_the_journey_have_a_run() -> None:
    assert set(TOPICS) == set(RUNS) <= set(ROOMS)


# The book.


def test_the_book_is_what_its_script_makes_of_it() -> None:
    """The text that it was made from is not here; made from itself it must come out the same."""
    text = make_opticks.FILE.read_text(encoding="utf-8")
    assert make_opticks.lines(text) == text


def test_the_script_leaves_prose_alone_and_all_else_out() -> None:
    prose = "_Light_ is propa-\ngated in Time[A], as\nwas found by the Phænomena of *" + " and by these".join([""] * 20)
    kept = prose.replace("*", "Jupiter's Satellites")
    table = "Red    1\nBlue   2\n" * 20
    figure = "Let the Ray ABC meet the Plane DEF in the Point G, " * 10
    text = "\n\n".join(["PROP. I. THEOR. I.", kept, table, figure, prose, kept.replace("as", "as 17")])
    found = make_opticks.paragraphs(text)
    assert [line[:60] for line in found] == ["Light is propa- gated in Time, as was found by the Phaenomen"]


def test_no_held_out_paragraph_was_read() -> None:
    book = writing.read_book()
    assert 100_000 < len(book.training) < 200_000 and len(book.held_out) == 17
    assert not any(paragraph in book.training for paragraph in book.held_out)
    assert set(book.characters) == {*book.training, *"".join(book.held_out)}
    assert book.text(book.ids(book.training[:500]).tolist()) == book.training[:500]


def test_targets_are_the_next_characters() -> None:
    inputs, targets = writing.windows(torch.arange(200), stride=8)
    assert inputs.shape == targets.shape == (17, writing.MODEL["max_len"])
    assert torch.equal(targets, inputs + 1) and inputs[:, 0].tolist() == list(range(0, 136, 8))


def test_tables_of_counts_are_as_good_as_is_said() -> None:
    """Interpolated as by Witten and Bell 1991: what was never seen after a context is asked of the shorter one."""
    book = writing.read_book()
    unseen = "\n\n".join(book.held_out)
    followers: list[dict[str, Counter[str]]] = []
    for length in range(3):
        tables: dict[str, Counter[str]] = {}
        for i in range(length, len(book.training)):
            tables.setdefault(book.training[i - length : i], Counter())[book.training[i]] += 1
        followers.append(tables)

    def probability(context: str, character: str) -> float:
        shorter = probability(context[1:], character) if context else 1 / len(book.characters)
        seen = followers[len(context)].get(context, Counter())
        return (seen[character] + len(seen) * shorter) / (seen.total() + len(seen)) if seen else shorter

    for length, wanted in enumerate((writing.SINGLES, writing.PAIRS, writing.TRIPLES)):
        nats = [-math.log(probability(unseen[max(i - length, 0) : i], unseen[i])) for i in range(len(unseen))]
        assert sum(nats) / len(nats) == pytest.approx(wanted, abs=0.006)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that a second is enough for."""
    monkeypatch.setattr(writing, "MODEL", {"max_len": 16, "d_model": 32, "num_layers": 1, "num_heads": 1})


def test_a_short_run_reads_and_writes(small: None) -> None:
    reports: list[int] = []
    run = writing.write(ROOMS["gpt"].reference, lambda step, loss: reports.append(step), steps=31)
    assert len(run.losses) == 31 and reports == [0, 10, 20, 30]
    assert run.losses[0] == pytest.approx(writing.guessing(run.vocabulary), abs=0.1)
    assert run.losses[-1] < 3.5 and run.held_out < 3.5 and not run.passed
    prompts = [paragraph[: writing.PROMPT] for paragraph in writing.read_book().held_out[: writing.PAGES]]
    assert [text[: writing.PROMPT] for text in (*run.drawn, run.likeliest)] == [*prompts, prompts[0]]
    assert {len(text) for text in (*run.drawn, run.likeliest)} == {writing.PROMPT + writing.NEW}


def test_a_gpt_that_leaks_is_told_so(small: None) -> None:
    leaking = next(m for m in ROOMS["gpt"].mistakes if m.id == "causal-mask-one-too-wide")
    run = writing.write(leaking.implementation, lambda step, loss: None, steps=300)
    assert run.leaks and not run.passed
    assert "can a position see the character after it?" in progress_in_reading(run).plain


GOOD = writing.Run([4.1, 2.0, 1.4], 1.5, 62, "The Rays of the Rays of the Rays", ["The Sun's Light, and the"])


@pytest.mark.parametrize(
    "run, passed, said",
    [
        (GOOD, True, "1.50 nats a character"),
        (replace(GOOD, held_out=0.2), False, "can a position see the character after it?"),
        (replace(GOOD, held_out=2.2, losses=[38.0, 2.2]), False, "The first loss was 38.0, worse than guessing"),
        (replace(GOOD, held_out=2.4, losses=[4.1, *[2.4] * 30]), False, "does attention reach earlier tokens?"),
        (replace(GOOD, held_out=2.1, losses=[4.1, *[2.1] * 30]), False, "are positions added?"),
        (replace(GOOD, held_out=1.9, losses=[4.1, *[1.2] * 30]), False, "by heart"),
        (replace(GOOD, held_out=float("nan")), False, "nan nats"),
    ],
)
def test_what_a_run_came_to_is_said(run: writing.Run, passed: bool, said: str) -> None:
    assert run.passed is passed
    assert said in progress_in_reading(run).plain


def test_pages_show_what_was_written() -> None:
    from rich.console import Console

    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(pages(GOOD))
    shown = capture.get()
    assert "The Sun's Light, and the" in shown and "The Rays of the Rays" in shown


def test_what_is_no_gpt_is_told_as_the_learners_fault() -> None:
    with pytest.raises(ImplementationRaised, match=r"the model was to give a tensor of shape \(2, 3, 5\), a tuple of 2 came"):
        writing.expect((1, 2), [2, 3, 5], "the model")


# Digits.


def test_no_held_out_digit_was_seen() -> None:
    training, held_out = digits.read_images()
    assert len(training.images) == 1438 and len(held_out.images) == 359
    assert {*training.labels.tolist()} == {*held_out.labels.tolist()} == set(range(10))
    for found in (training, held_out):
        assert found.images.shape == (len(found.labels), 1, 8, 8) and found.images.dtype == torch.float32
        assert found.images.min() == 0 and found.images.max() == 1
    assert not {*map(str, training.images.flatten(1).tolist())} & {*map(str, held_out.images.flatten(1).tolist())}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that a second is enough for."""
    monkeypatch.setattr(digits, "MODEL", digits.MODEL | {"d_model": 16, "num_layers": 1, "d_hidden": 32})
    monkeypatch.setattr(digits, "BATCH", 32)
    monkeypatch.setattr(digits, "RATE", 1e-2)


def test_a_short_run_sees(tiny: None) -> None:
    reports: list[int] = []
    run = digits.read(ROOMS["vit"].reference, lambda step, loss: reports.append(step), steps=121)
    assert len(run.losses) == 121 and reports == list(range(0, 121, 10))
    assert run.losses[0] == pytest.approx(math.log(10), abs=0.5)
    assert run.losses[-1] < 1.5 and 0.4 < run.exact < digits.MARK and not run.passed
    assert run.exact == sum(wanted == came for _, wanted, came in run.samples) / 359
    assert [wanted for _, wanted, _ in run.samples] == digits.read_images()[1].labels.tolist()


def test_a_vit_that_sees_nothing_is_told_so(tiny: None) -> None:
    blind = next(m for m in ROOMS["vit"].mistakes if m.id == "causal")
    run = digits.read(blind.implementation, lambda step, loss: None, steps=31)
    assert run.exact < 0.2
    assert "does the token that the head reads attend to the patches" in progress_in_seeing(run).plain


SEEN = digits.Run([2.3, 0.5, 0.01], [(torch.eye(8), 7, 7)] * 19 + [(torch.zeros(8, 8), 3, 5)])
MISREAD = [(torch.eye(8), 7, 1)]


@pytest.mark.parametrize(
    "run, passed, said",
    [
        (SEEN, True, "95.0% of 20 held-out digits are read right; 85% are wanted"),
        (digits.Run([2.3] * 30, MISREAD), False, "do gradients reach all weights"),
        (digits.Run([2.3, *[0.4] * 30], MISREAD), False, "are they added?"),
        (digits.Run([2.3, *[0.01] * 30], MISREAD), False, "is an image read alone"),
        (digits.Run([12.0, *[1.0] * 30], MISREAD), False, "The first loss was 12.0, guessing has 2.3"),
        (digits.Run([float("nan")] * 30, MISREAD), False, "0.0% of 1"),
    ],
)
def test_what_a_run_on_digits_came_to_is_said(run: digits.Run, passed: bool, said: str) -> None:
    assert run.passed is passed
    assert said in progress_in_seeing(run).plain


def test_the_sheet_shows_ten_digits_the_wrong_ones_first() -> None:
    from rich.console import Console

    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(sheet(SEEN))
    shown = capture.get()
    assert shown.index("✗ 3, came 5") < shown.index("✓ 7") and shown.count("✓ 7") == 9
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("██") == 9 * 8  # a diagonal each


def test_shades_go_from_paper_to_ink() -> None:
    from kata.train import drawing

    image = torch.linspace(0, 1, 5).expand(2, 5)
    assert drawing(image) == "\n".join(["  ░░▒▒▓▓██"] * 2)


def test_what_is_no_vit_is_told_before_it_is_trained(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "CLASSES", 9)
    with pytest.raises(
        ImplementationRaised, match=r"the model was to give a tensor of shape \(2, 9\), a float32 tensor of shape \(2, 10\) came"
    ):
        digits.read(ROOMS["vit"].reference, lambda step, loss: None, steps=1)


# A book, searched.


@pytest.fixture(scope="module")
def search() -> retrieval.Run:
    return retrieval.retrieve(ROOMS["rag"].reference, lambda number, loss: None)


def test_both_ways_together_beat_either(search: retrieval.Run) -> None:
    assert search.passed and search.strange == []
    for way in retrieval.WAYS[:2]:
        assert all(both > alone + 0.05 for both, alone in zip(search.measures["both"], search.measures[way]))
    assert {sample.question.kind for sample in search.samples} == set(retrieval.KINDS)
    assert search.prompt.endswith("\nAnswer:") and len(search.prompt.split()) <= retrieval.ROOM
    assert "0.762" in progress_in_finding(search).plain


def test_findings_show_the_measures_and_a_prompt(search: retrieval.Run) -> None:
    from rich.console import Console

    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(findings(search))
    shown = capture.get()
    assert "0.681  0.515" in shown and "Question: " in shown


@pytest.mark.parametrize(
    "mistake, said",
    [
        ("occurrences-do-not-saturate", "look at BM25"),
        ("only-queries-are-normalised", "does it rank by the cosine"),
        ("k-of-fusion-not-used", "does the fusion count ranks"),
        ("recall-is-precision", "Only recall@5 is not what it should be"),
        ("mrr-over-what-was-found", "Only MRR is not what it should be"),
    ],
)
def test_a_search_that_is_wrong_is_told_where(mistake: str, said: str) -> None:
    wrong = next(m for m in ROOMS["rag"].mistakes if m.id == mistake)
    run = retrieval.retrieve(wrong.implementation, lambda number, loss: None)
    assert not run.passed
    assert said in progress_in_finding(run).plain


def test_chunks_that_are_not_those_of_the_vectors_are_told_as_the_learners_fault() -> None:
    wrong = next(m for m in ROOMS["rag"].mistakes if m.id == "tail-is-lost")
    with pytest.raises(ImplementationRaised, match="into 400 passages"):
        retrieval.retrieve(wrong.implementation, lambda number, loss: None)


def test_every_answer_stands_in_the_book_once_and_in_a_passage() -> None:
    text = " ".join(" ".join(words) for words in retrieval.paragraphs())
    for question in retrieval.read_questions():
        assert question.kind in retrieval.KINDS
        for answer in question.answers:
            assert text.count(answer) == 1 and len(answer.split()) <= retrieval.OVERLAP + 1


def test_the_vectors_are_what_their_script_makes() -> None:
    """But for their signs and for rounding, which other versions of the libraries may do differently."""
    ours, made = retrieval.read_vectors(), make_vectors.vectors().float()
    torch.testing.assert_close(ours @ ours.T / 200**2, made @ made.T / 200**2, rtol=0, atol=0.03)
