"""The real run of the Transformer: its corpus, what it measures, and what it says."""

from __future__ import annotations

import math

import pytest
from rooms import ROOMS

from kata.corpus import make_numbers
from kata.train import outcome
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
