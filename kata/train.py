"""`kata train`: a learner's model on real data, with a progress bar, a loss curve and samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from kata import digits, retrieval, translation, writing
from kata.answer import Unreadable, read_answer
from kata.curriculum import Topic
from kata.implementation import Implementation, ImplementationRaised
from kata.learner import Learner
from kata.processes import RunnerLost, Starter

WALL_SECONDS = 900.0
SAMPLES = 10


@dataclass(frozen=True)
class RealRun:
    """A topic's run on real data, and how what it came to is shown."""

    steps: int
    start: Callable[[Implementation, Callable[[int, float], Any]], Any]
    samples: Callable[[Any], RenderableType]
    outcome: Callable[[Any], Text]
    unit: str = ""  # of which the loss is the mean; empty if nothing is trained


def train(console: Console, topic: Topic, file: Path, starter: Starter) -> int:
    """Train, show, and say whether the mark was reached; exit status."""
    real = RUNS[topic.name]
    try:
        learner = Learner(starter, read_answer(file), str(file.resolve()), topic.off_limits, WALL_SECONDS, topic.files)
    except Unreadable as error:
        console.print(Text(str(error)))
        return 1
    title, loss = ("training", "loss {task.fields[loss]:.3f}") if real.unit else ("looking up", "")
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(loss), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress, learner.limited():
            task = progress.add_task("", total=real.steps, loss=float("nan"))
            run = real.start(learner.implementation, lambda step, loss: progress.update(task, completed=step + 1, loss=loss))
    except RunnerLost as lost:
        console.print(Text(f"your code {lost.message}"))
        return 1
    except ImplementationRaised as error:
        if error.builtin == "NotImplementedError":
            console.print(Text(f"{file} is not written yet; `make check TOPIC={topic.name}` shows the way."))
            return 1
        console.print(Text(f"{error.types[0].removeprefix('builtins.')}: {error.message}\n{error.traceback}"))
        return 1
    finally:
        learner.stop()
    if real.unit:
        console.print(Text.from_ansi(curve(run.losses, min(console.width, 100))))
    console.print(real.samples(run))
    console.print(real.outcome(run))
    if real.unit:
        console.print(saved(run.losses, topic.root, f"{topic.name}-loss.png", real.unit))
    return 0 if run.passed else 1


def curve(losses: list[float], width: int) -> str:
    """The loss over the steps, as text."""
    import plotext

    plotext.clear_figure()
    plotext.plotsize(width, 15)
    plotext.theme("clear")
    plotext.plot(range(len(losses)), losses)
    plotext.xticks([round(len(losses) * quarter / 4) for quarter in range(5)])
    plotext.xlabel("step")
    plotext.title("loss")
    return str(plotext.build())


def saved(losses: list[float], root: Path, name: str, unit: str) -> Text:
    """Where the curve's picture is."""
    try:
        save_picture(losses, root / ".kata" / name, unit)
        return Text(f" The loss curve is in .kata/{name}.\n", "dim")
    except OSError as error:
        return Text(f" The loss curve could not be saved: {error.strerror}\n", "dim")


def save_picture(losses: list[float], file: Path, unit: str) -> None:
    """The loss over the steps, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(losses, color="black", linewidth=1)
    axes.set(xlabel="step", ylabel=f"cross-entropy (nats a {unit})", yscale="log", title="Training loss")
    axes.grid(alpha=0.3)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


# Numbers, translated.


def samples(run: translation.Run) -> Table:
    """Ten translations, the wrong ones first."""
    table = Table(box=None, header_style="dim")
    for column in ("", "English", "German wanted", "came"):
        table.add_column(column, overflow="fold")
    for english, wanted, came in sorted(run.samples, key=lambda sample: sample[1] == sample[2])[:SAMPLES]:
        right = wanted == came
        table.add_row(Text("✓", "green") if right else Text("✗", "red"), english, wanted, "" if right else came)
    return table


def outcome(run: translation.Run) -> Text:
    """Whether the mark was reached, and if not, where to look."""
    said = f"\n {run.exact:.1%} of {len(run.samples)} held-out numbers are translated exactly; {translation.MARK:.0%} are wanted.\n"
    if run.passed:
        return Text(said, "bold green")
    last = sum(run.losses[-20:]) / len(run.losses[-20:])
    if last < 0.05:
        said += " The training loss is nearly zero all the same: does the decoder see the tokens that it is to predict?\n"
    elif last > 1.0:
        said += " The training loss stayed high: do gradients reach all weights, and are there positions?\n"
    return Text(said, "bold red")


# A book, continued.


def pages(run: writing.Run) -> RenderableType:
    """What was drawn from the model, and what its likeliest characters are."""
    blocks: list[RenderableType] = []
    for title, texts in (
        ("drawn from its probabilities", run.drawn),
        ("always the likeliest character, by your generate", [run.likeliest]),
    ):
        blocks.append(Text(f" {title}", "dim"))
        for text in texts:
            shown = Text(" ".join(text.split()))
            shown.stylize("bold", 0, writing.PROMPT)
            blocks.append(Padding(shown, (0, 1, 1, 3)))
    return Group(*blocks)


def progress_in_reading(run: writing.Run) -> Text:
    """Whether the mark was reached, and if not, where to look."""
    guessing = writing.guessing(run.vocabulary)
    said = (
        f" {run.held_out:.2f} nats a character on paragraphs that it has not seen; at most {writing.MARK} are wanted.\n"
        f" Guessing has {guessing:.2f}, counting what follows one character {writing.PAIRS}, two characters {writing.TRIPLES}.\n"
    )
    if run.passed:
        return Text(said, "bold green")
    last = sum(run.losses[-20:]) / len(run.losses[-20:])
    if run.leaks:
        said += f" Below {writing.PLAUSIBLE} it does not predict, it reads: can a position see the character after it?\n"
    elif run.losses[0] > 2 * guessing:
        said += f" The first loss was {run.losses[0]:.1f}, worse than guessing: do the weights begin as small as they should?\n"
    elif last > writing.PAIRS - 0.1:
        said += (
            " It has learnt little more than which characters are frequent, or follow one another: does attention reach earlier tokens?\n"
        )
    elif last > writing.TRIPLES:
        said += " It sees earlier characters, and too little of their order: are positions added?\n"
    elif last < writing.MARK - 0.2:
        said += " The training loss is far lower: it knows what it has read by heart, and little of the language.\n"
    return Text(said, "bold red")


# Digits, read.

SHADES = " ░▒▓█"  # paper to ink


def drawing(image: Tensor) -> str:
    """An image as text, two characters a pixel, since characters are higher than wide."""
    levels = (image * (len(SHADES) - 1)).round().int().clamp(0, len(SHADES) - 1)
    return "\n".join("".join(2 * SHADES[level] for level in row) for row in levels.tolist())


def sheet(run: digits.Run) -> RenderableType:
    """Ten of the held-out digits, the wrong ones first."""
    shown = []
    for image, wanted, came in sorted(run.samples, key=lambda sample: sample[1] == sample[2])[:SAMPLES]:
        caption = Text(f"✓ {wanted}", "green") if wanted == came else Text(f"✗ {wanted}, came {came}", "red")
        shown.append(Text.assemble(drawing(image), "\n", caption, "\n"))
    return Padding(Columns(shown, padding=(0, 3)), (0, 1))


def progress_in_seeing(run: digits.Run) -> Text:
    """Whether the mark was reached, and if not, where to look."""
    said = f" {run.exact:.1%} of {len(run.samples)} held-out digits are read right; {digits.MARK:.0%} are wanted.\n"
    if run.passed:
        return Text(said, "bold green")
    guessing, last = math.log(digits.CLASSES), sum(run.losses[-20:]) / len(run.losses[-20:])
    if run.losses[0] > 2 * guessing:
        said += f" The first loss was {run.losses[0]:.1f}, guessing has {guessing:.1f}: do the weights begin as small as they should?\n"
    elif last > 0.8 * guessing:
        said += " It has learnt nothing: does the token that the head reads attend to the patches, and do gradients reach all weights?\n"
    elif last > 0.1:
        said += f" It sees patches, and too little of where they are; without positions {digits.SHUFFLED:.0%} are read: are they added?\n"
    elif last <= 0.1:
        said += " The training loss is low all the same: is an image read alone, and in evaluation as in training?\n"
    return Text(said, "bold red")


# A book, searched.


def findings(run: retrieval.Run) -> RenderableType:
    """How good each way of searching is, what came first for some questions, and a prompt."""
    table = Table(box=None, header_style="dim")
    for column in ("", *retrieval.MEASURES):
        table.add_column(column, justify="right" if column else "left")
    for way, measures in run.measures.items():
        table.add_row(way, *(f"{value:.3f}" for value in measures), style="bold" if way == "both" else "")
    asked = Table(box=None, header_style="dim")
    for column in ("question", *retrieval.WAYS, "came first, by both"):
        asked.add_column(column, overflow="fold")
    for sample in run.samples:
        ranks = [str(rank) if rank else "-" for rank in sample.ranks.values()]
        asked.add_row(sample.question.text, *ranks, f"{sample.first[:60]} …")
    return Group(
        table,
        Text("\n At which rank an answer is found\n", "dim"),
        asked,
        Text("\n A prompt\n", "dim"),
        Padding(Text(run.prompt), (0, 1, 1, 3)),
    )


def progress_in_finding(run: retrieval.Run) -> Text:
    """Whether the mark was reached, and if not, where to look."""
    both, best = run.measures["both"], [max(run.measures[way][i] for way in retrieval.WAYS[:2]) for i in (0, 1)]
    said = (
        f" Both ways together have {retrieval.MEASURES[0]} {both[0]:.3f}, the better one alone {best[0]:.3f};"
        f" {retrieval.MEASURES[1]} {both[1]:.3f} against {best[1]:.3f}.\n"
    )
    if run.passed:
        return Text(said, "bold green")
    wrong = {way for way, _ in run.strange}
    measures = {measure for _, measure in run.strange}
    if wrong == set(retrieval.WAYS) and len(measures) == 1:
        said += f" Only {measures.pop()} is not what it should be, and that for all three: look at the function that measures it.\n"
    elif wrong == set(retrieval.WAYS):
        said += " None of the three is what it should be: do chunks begin where they should, and are the measures right?\n"
    elif "by words" in wrong:
        said += " The search by words is not what it should be: look at BM25.\n"
    elif "by vectors" in wrong:
        said += " The search by vectors is not what it should be: does it rank by the cosine, the largest first?\n"
    else:
        said += " Each way by itself is right: does the fusion count ranks, in both rankings, with the best first?\n"
    return Text(said, "bold red")


RUNS = {
    "transformer": RealRun(translation.STEPS, translation.translate, samples, outcome, "token"),
    "gpt": RealRun(writing.STEPS, writing.write, pages, progress_in_reading, "character"),
    "vit": RealRun(digits.STEPS, digits.read, sheet, progress_in_seeing, "digit"),
    "rag": RealRun(len(retrieval.read_questions()), retrieval.retrieve, findings, progress_in_finding),
}
TOPICS = tuple(RUNS)  # those with a real run
