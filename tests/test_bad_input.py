"""Bad input gets one clear message, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rooms import ROOMS

from kata import progress
from kata.answer import MAX_SOURCE, excerpt
from kata.curriculum import ROOT, CurriculumError, load_curriculum
from kata.judge import grade
from kata.processes import Starter
from kata.verdict import Verdict, to_json

RIGHT = ROOMS["attention"].solution
Grade = Callable[..., Verdict]


@pytest.mark.parametrize(
    "source, says",
    [
        ("def softmax(x, dim):\n    return x +\n", "syntax error in line 2 of attention.py: invalid syntax\n        return x +"),
        ("def softmax(x, dim):\nreturn x\n", "syntax error in line 2"),
        ("x = 1 \x1b[2J\n", "U+001B\n    x = 1 ·[2J\n          ^"),
        ("", "is empty"),
        ("  \n\n", "is empty"),
        ("#" * (MAX_SOURCE + 1), "has 262,145 bytes; at most 262,144 are graded"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "is no text: byte 8 is not UTF-8"),
        (b"x = 1\x00", "attention.py"),
        ("import einops\n", "ModuleNotFoundError: No module named 'einops'; PyTorch, NumPy and Python's own library are there"),
        ("from torch import nothing_like_this\n", "ImportError: cannot import name 'nothing_like_this' from 'torch'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("(" * 300, "syntax error in line 1"),
        (RIGHT.replace("def softmax", "def sofmax"), "there is no `softmax` in the file; is `sofmax` meant to be it?"),
        ("x = 1\n", "there is no `softmax` in the file"),
        ("softmax = 3\n", "`softmax` cannot be called as the contract says: 'int' object is not callable"),
        (
            RIGHT.replace("def softmax(x: Tensor, dim: int)", "def softmax(x: Tensor)"),
            "`softmax` cannot be called as the contract says: softmax() got an unexpected keyword argument 'dim'",
        ),
        ("def softmax(x, dim):\n    x.exp()\n", "a float64 tensor of shape (1, 1, 1) wanted, None came"),
        ("def softmax(x, dim):\n    return x, x\n", "a float64 tensor of shape (1, 1, 1) wanted, a tuple of 2 came"),
        ("def softmax(x, dim):\n    return x.numpy()\n", "a float64 tensor of shape (1, 1, 1) wanted, an object of type ndarray came"),
        ("def softmax(x, dim):\n    return x[0]\n", "shape (1, 1, 1) wanted, (1, 1) came"),
        ("def softmax(x, dim):\n    return y\n", "NameError: name 'y' is not defined"),
        (
            "class Shy(Exception):\n    def __str__(self):\n        return 1 / 0\ndef softmax(x, dim):\n    raise Shy\n",
            "Shy: its own text cannot be made, for __str__ raises ZeroDivisionError",
        ),
    ],
    ids=range(22),
)
def test_a_file_that_cannot_be_right_is_told_why(source: str | bytes, says: str, verdict_on: Grade) -> None:
    verdict = verdict_on("attention", source)
    assert verdict.points == 0
    failure = verdict.first_failure
    assert failure is not None
    assert says in failure.message


def test_a_traceback_shows_the_learners_lines_and_none_of_ours(verdict_on: Grade) -> None:
    source = "def helper(x):\n    return x.nothing\n\n\ndef softmax(x, dim):\n    return helper(x)\n"
    failure = verdict_on("attention", source).first_failure
    assert failure is not None
    assert "line 6, in softmax\n    return helper(x)" in failure.traceback
    assert "line 2, in helper\n    return x.nothing" in failure.traceback
    assert "kata/" not in failure.traceback


def test_a_directory_a_pipe_and_a_missing_file_are_told(runners: Starter, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    for path, says in [(tmp_path, "is a directory"), (tmp_path / "pipe.py", "is no regular file"), (tmp_path / "none.py", "is not there")]:
        failure = grade(ROOMS["attention"], path, runners).first_failure
        assert failure is not None
        assert says in failure.message


def kata(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"} | environment
    return subprocess.run([sys.executable, "-m", "kata", *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=120)


def test_a_file_named_torch_beside_the_answer_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('this is not PyTorch')\n")
    (tmp_path / "answer.py").write_text(RIGHT)
    done = kata("check", "attention", "--file", "answer.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["check", "atention"], "no topic 'atention'; did you mean 'attention'? `make list` shows all"),
        (["check", "the_family"], "'the_family' is an overview, with nothing to write; `make notebook TOPIC=the_family` opens it."),
        (["check", "attention", "--file", "no/such/file.py"], "there is no file no/such/file.py"),
        (["check", "--file", "README.md"], "--file and --notebook need a TOPIC"),
        (["check", "attention", "--seed", "many"], "Invalid value for '--seed'"),
        (["chek"], "No such command 'chek'"),
        (["hint"], "Missing argument 'TOPIC'"),
        (["new", "attention"], "legal: 1_foundations/NAME"),
        (["debug", "attention", "softmax_is_stabel"], "did you mean 'softmax_is_stable'?"),
    ],
    ids=" ".join,
)
def test_a_misused_command_says_what_is_legal_and_ends_in_2(arguments: list[str], says: str) -> None:
    done = kata(*arguments)
    assert done.returncode == 2
    assert says in (done.stderr + done.stdout).replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_an_unknown_way_of_starting_is_told(tmp_path: Path) -> None:
    done = kata("check", "attention", KATA_START="thread")
    assert done.returncode == 2
    assert "KATA_START is 'thread'; legal: fork, spawn" in done.stderr


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("[[topic]]", "[[topics]]", "unknown key 'topics'; did you mean 'topic'? legal: chapters, off_limits, topic, overview"),
        ("minutes = ", "minuets = ", "topic 1_foundations/attention: unknown key 'minuets'; did you mean 'minutes'?"),
        ("minutes = ", 'minutes = "a" #', "topic 1_foundations/attention: minutes is 'a'; legal: a whole number"),
        ("minutes = ", "minutes = 0 #", "minutes is 0; legal: 1 or more"),
        ('path = "1_foundations/attention"', 'path = "attention"', "path is 'attention'; legal: 1_foundations/NAME"),
        ('path = "1_foundations/attention"\n', "", "topic 1: path is missing"),
        ("prerequisites = []", 'prerequisites = ["algebra"]', "prerequisites: 'algebra' is no earlier topic; legal: none"),
        ("prerequisites = []", "prerequisites = [3]", "prerequisites: legal is a list of texts that are not empty"),
        ("hints = [", "hints = []\n#", ""),
        ('names = [\n  "torch._C"', 'names = ["numpy"', "off_limits: names: 'numpy'; legal: a dotted name below torch"),
        ("[chapters]", "[chapters", "is not legal TOML"),
        ("[chapters]", '[[overview]]\npath = "5_advanced/x"\n[chapters]', "overview 5_advanced/x: title is missing"),
    ],
    ids=range(12),
)
def test_a_broken_curriculum_names_file_key_and_what_is_legal(old: str, new: str, says: str, tmp_path: Path) -> None:
    text = (ROOT / "curriculum.toml").read_text()
    start = text.index('[[topic]]\npath = "1_foundations/attention"')
    end = text.find("\n[[topic]]", start + 1)
    one = text[: text.index("[[topic]]")] + text[start : end if end > 0 else len(text)]  # attention alone, so that it comes first
    assert old in one
    (tmp_path / "curriculum.toml").write_text(one.replace(old, new, 1))
    with pytest.raises(CurriculumError) as error:
        load_curriculum(tmp_path)
    assert "curriculum.toml" in str(error.value)
    assert says in str(error.value)


def test_a_curriculum_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CurriculumError, match=r"curriculum.toml cannot be read: No such file or directory"):
        load_curriculum(tmp_path)


def test_a_full_disk_costs_the_note_and_not_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict_on: Grade, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = replace(ROOMS["attention"].topic, root=tmp_path)
    verdict = verdict_on("attention", RIGHT)
    progress.remember(topic, to_json(verdict))
    before = progress.read(tmp_path)
    assert before["attention"].passed

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    progress.remember(topic, to_json(verdict))
    assert "No space left on device" in capsys.readouterr().err
    assert progress.read(tmp_path) == before
    assert [file.name for file in (tmp_path / ".kata").iterdir()] == ["progress.json"]


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text("while True:\n    pass\n")
    command = [sys.executable, "-m", "kata", "check", "attention", "--file", str(tmp_path / "answer.py")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    family: list[int] = []
    while (len(family) < 2 or family != descendants(process.pid)) and time.monotonic() < deadline:  # the zygote and its runner, to stay
        family = descendants(process.pid)
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.strip() == "stopped"
    assert len(family) == 2
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def test_a_killed_judge_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text("while True:\n    pass\n")
    command = [sys.executable, "-m", "kata", "check", "attention", "--file", str(tmp_path / "answer.py")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    family: list[int] = []
    while (len(family) < 2 or family != descendants(process.pid)) and time.monotonic() < deadline:  # the zygote and its runner, to stay
        family = descendants(process.pid)
        time.sleep(0.5)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(family) == 2
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def test_reset_changes_nothing_when_no_copy_can_be_kept(tmp_path: Path) -> None:
    for name in ("kata", "exercises", "solutions", "graders"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "curriculum.toml", tmp_path)
    exercise = tmp_path / "exercises" / "1_foundations" / "attention.py"
    exercise.write_text("mine = 1\n")
    (tmp_path / ".kata").write_text("a file where a folder is wanted")
    done = kata("reset", "attention", "--yes", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "nothing was replaced" in done.stderr
    assert exercise.read_text() == "mine = 1\n"


@pytest.mark.parametrize("before", [0, 30, 47, 48, 49, 100, 2000])
@pytest.mark.parametrize("after", [0, 30, 200])
def test_the_caret_stands_under_its_place_in_a_line_of_any_length(before: int, after: int) -> None:
    line, column = excerpt("a" * before + "X" + "b" * after, before)
    assert line[column] == "X"
    assert len(line) <= 72
    assert set(line) <= {"a", "X", "b", "…"}
    assert before > 48 or after > 23 or line == "a" * before + "X" + "b" * after
