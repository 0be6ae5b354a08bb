"""Lays out the files of a new topic."""

from __future__ import annotations

from pathlib import Path

import tomli

from kata.curriculum import FILE, ROOT, CurriculumError, load_curriculum

SOLUTION = '''"""{title}.

TODO: the interviewer's question: a situation, then what to write. No recipe.
"""

from torch import Tensor


def {name}(x: Tensor) -> Tensor:
    """TODO: what it gives back, in one line.

    Args:
        x: TODO, (B, L, D).

    Returns:
        TODO, with shape and dtype. State every rule that a check tests.

    Source: TODO, with the section.

    >>> import torch
    >>> {name}(torch.zeros(1, 2, 3)).shape
    torch.Size([1, 2, 3])
    """
    return x
'''

MISTAKES = """# Known mistakes, as edits of {name}.py. `old` occurs there exactly once.

[[mistake]]
id = "returns-zeros"  # kebab-case, unique in this file
says = "What is wrong and why it matters, to somebody who is stuck."
old = "return x"
new = "return 0 * x"
# twins = ["other-id"]  # mistakes that nothing can tell apart from this one
"""

GRADER = '''"""What a right {title} does."""

from kata.grading import check, normal


@check(points=1, x=normal("B L D"))
def gives_the_right_values(impl, x):
    """TODO: the sentence that the learner reads."""
    return impl.{name}(x)
'''

LESSON = """```python
import matplotlib.pyplot as plt
import torch
```

## The idea

TODO: intuition, then the mathematics, an example to check by hand, pictures, what goes wrong. No solution.

## Things to try

- TODO: what happens if ...?

<!-- kata -->

## What an interviewer asks next

<details><summary>TODO: a follow-up?</summary>

TODO: a short answer.
</details>
"""

ANSWERS = '''"""Another right answer; at least three are wanted, in really different styles."""


def {name}(x):
    return x
'''

ORACLE = '''"""Oracles of {name}: what proves the reference right, independently of it."""

from __future__ import annotations

import torch
from rooms import solution

{name} = solution("{name}")


def test_{name}_equals_an_independent_computation() -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close({name}.{name}(x), x)
'''

ENTRY = """
[[topic]]
path = "{path}"
title = "{title}"
summary = "TODO: what one will write, in a line"
minutes = 30
papers = ["TODO: where it comes from, with sections"]
prerequisites = []
hints = ["TODO: from a nudge to nearly the answer"]
off_limits = []
"""


def new_topic(path: str, root: Path = ROOT) -> list[str]:
    """Write a topic's files and its entry in the curriculum; what was done and what comes next.

    Raises:
        CurriculumError: the path is not legal or is taken; nothing was written.
    """
    curriculum = load_curriculum(root)
    chapters = tomli.loads((root / FILE).read_text(encoding="utf-8"))["chapters"]
    folder, _, name = path.partition("/")
    if folder not in chapters or not name.isidentifier():
        legal = ", ".join(f"{chapter}/NAME" for chapter in chapters)
        raise CurriculumError(f"a new topic is called CHAPTER/NAME, not {path!r}; legal: {legal}")
    if name in {topic.name for topic in curriculum.topics}:
        raise CurriculumError(f"there is a topic {name!r} already: {curriculum.find(name).path}")
    words = {"name": name, "path": path, "title": name.replace("_", " ").capitalize()}
    files = {
        root / "solutions" / f"{path}.py": SOLUTION,
        root / "solutions" / f"{path}.mistakes.toml": MISTAKES,
        root / "graders" / f"{path}.py": GRADER,
        root / "lessons" / f"{path}.md": LESSON,
        root / "tests" / "answers" / name / "in_another_style.py": ANSWERS,
        root / "tests" / "oracles" / f"test_{name}.py": ORACLE,
    }
    taken = [file for file in files if file.exists()]
    if taken:
        raise CurriculumError(f"{taken[0].relative_to(root)} is there already; nothing was written")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(**words), encoding="utf-8")
    with (root / FILE).open("a", encoding="utf-8") as curriculum_file:
        curriculum_file.write(ENTRY.format(**words))
    written = [str(file.relative_to(root)) for file in files] + [f"{FILE} (its last entry; move it to its place in the journey)"]
    return ["wrote", *(f"  {line}" for line in written), "next: fill them in, `make stubs` and `make lessons`, then `make test`"]
