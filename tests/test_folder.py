"""An answer of a topic that writes files gets one folder, empty at each run, and nothing outside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from kata.compare import Value
from kata.grading import check, choice, folder
from kata.host import Local
from kata.implementation import Implementation
from kata.learner import Learner
from kata.loading import load
from kata.processes import Starter

SOURCE = """
import os

def tried(action):
    try:
        action()
        return "done"
    except OSError:
        return "refused"

def use(path, size):
    def write(name, number=3):
        with open(name, "wb") as file:
            file.write(b"x" * number)

    before = os.listdir(path)
    seen = {
        "before": before,
        "write": tried(lambda: write(path + "/new")),
        "replace": tried(lambda: os.replace(path + "/new", path + "/old")),
        "after": os.listdir(path),
        "beside it": tried(lambda: write(path + "-other")),
        "above it": tried(lambda: os.listdir(os.path.dirname(path))),
        "huge": tried(lambda: write(path + "/huge", size)),
    }
    os.makedirs(path + "/deep/er")
    return seen
"""


@check(size=choice(1 << 25))
def what_can_be_done(impl, size):
    """Files are written."""
    return impl.use(folder(impl), size)


def runs(implementation: Implementation) -> list[dict[str, object]]:
    return [what_can_be_done.run(implementation, {"size": 1 << 25}).value for _ in range(2)]


def test_an_answer_writes_into_its_folder_and_nowhere_else(runners: Starter) -> None:
    learner = Learner(runners, SOURCE, "answer.py", [], files=True)
    with learner.limited():
        seen = runs(learner.implementation)
        assert learner.folder
        place = Path(learner.folder)
        assert place.exists()
    learner.stop()
    allowed = {"before": [], "write": "done", "replace": "done", "after": ["old"]}
    assert seen == [allowed | {"beside it": "refused", "above it": "refused", "huge": "refused"}] * 2
    assert not place.exists()


def test_what_an_answer_leaves_is_removed_and_what_its_links_lead_to_is_not(runners: Starter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "file").chmod(0o640)
    source = f"""
import os

def use(path, size):
    os.makedirs(path + "/shut")
    for target in {[str(tmp_path), str(tmp_path / "file")]!r}:
        try:
            os.symlink(target, path + "/shut/" + os.path.basename(target))
        except OSError:  # Landlock refuses links; where it is not, they must do no harm
            pass
    os.chmod(path + "/shut", 0o500)
    os.chmod(path, 0)
"""
    learner = Learner(runners, source, "answer.py", [], files=True)
    with learner.limited():
        outcome = what_can_be_done.run(learner.implementation, {"size": 1})
        place = Path(learner.folder or "")
    learner.stop()
    assert outcome == Value(None)
    assert not place.exists()
    assert (tmp_path / "file").read_text() == "kept" and (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name, depth", [("x", 1100), ("long" * 60, 40)])
def test_folders_are_removed_however_deep_they_are(name: str, depth: int, runners: Starter) -> None:
    source = f"""
import os

def use(path, size):
    seen, here = os.listdir(path), os.getcwd()
    os.chdir(path)
    for _ in range({depth}):
        os.mkdir("{name}")
        os.chdir("{name}")
        open("file", "w").close()
    os.chdir(here)
    return seen
"""
    learner = Learner(runners, source, "answer.py", [], 60.0, files=True)
    with learner.limited():
        seen = runs(learner.implementation)
        place = Path(learner.folder or "")
    learner.stop()
    assert seen == [[], []]
    assert not place.exists()


def test_a_topic_without_files_has_no_folder(runners: Starter) -> None:
    learner = Learner(runners, SOURCE, "answer.py", [])
    with learner.limited():
        outcome = what_can_be_done.run(learner.implementation, {"size": 1})
    learner.stop()
    assert outcome.types[0] in ("builtins.FileNotFoundError", "builtins.PermissionError")


def test_a_reference_has_one_too_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    implementation = Implementation(Local(load(SOURCE, "source.py", "source")))
    first, second = runs(implementation)
    assert first["before"] == second["before"] == []
    assert [path.is_dir() for path in tmp_path.glob("kata-*")].count(True) == 1
    del implementation
    assert [path for path in tmp_path.glob("kata-*") if path.is_dir()] == []
