"""`pytest graders` grades through the same judge as `kata check`."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rooms import ROOMS

from kata.curriculum import ROOT

ROOM = ROOMS["attention"]
GRADER = "graders/1_foundations/attention.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_right_submission_passes_every_item_and_junit_holds_points(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text(ROOM.solution)
    done = run(
        "graders",
        "-k",
        "attention",
        "--submission",
        str(tmp_path / "answer.py"),
        f"--junitxml={tmp_path}/junit.xml",
        "-p",
        "no:cacheprovider",
    )
    assert done.returncode == 0, done.stdout
    cases = ElementTree.parse(tmp_path / "junit.xml").findall(".//testcase")
    assert [case.get("name") for case in cases] == [check.name for check in ROOM.checks]
    points = [int(p.get("value") or 0) for p in ElementTree.parse(tmp_path / "junit.xml").findall(".//property[@name='points']")]
    assert sum(points) == sum(check.points for check in ROOM.checks)


def test_a_wrong_submission_fails_with_the_mistakes_name(tmp_path: Path) -> None:
    mistake = next(m for m in ROOM.mistakes if m.id == "no-scaling")
    (tmp_path / "answer.py").write_text(mistake.source)
    done = run(GRADER, "-x", "--submission", str(tmp_path / "answer.py"), "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "The scores are not divided by √D" in done.stdout
    assert "1 failed" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_check_that_is_not_reached_never_looks_like_success(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text(ROOM.topic.exercise.read_text() if False else "x = 1\n")
    done = run(GRADER, "-k", "gradients", "--submission", str(tmp_path / "answer.py"), "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_a_submission_without_a_topic_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text("x = 1\n")
    done = run("graders", "--submission", str(tmp_path / "answer.py"), "-p", "no:cacheprovider")
    assert done.returncode == 4
    assert "name one with -k: attention" in done.stderr + done.stdout


def test_last_failed_and_selection_work(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text(
        ROOM.solution.replace("scores = scores.masked_fill(~mask, -math.inf)", "scores = scores.masked_fill(mask, -math.inf)")
    )
    common = (GRADER, "--submission", str(tmp_path / "answer.py"), "-o", f"cache_dir={tmp_path}/cache")
    first = run(*common)
    assert first.returncode == 1
    again = run(*common, "--lf")
    assert "run-last-failure" in again.stdout
    assert "mask_allows_where_true" in again.stdout
    one = run(*common, "-k", "softmax_is_stable")
    assert one.returncode == 0
    assert "1 passed" in one.stdout
