"""The house is in order: the trees agree, what is generated is fresh, each example runs."""

from __future__ import annotations

import ast
import doctest
import re

import pytest
import tomli
from record_readme import recorded
from rooms import ROOMS, TOPICS, committed, solution, tracked

from kata import progress
from kata.curriculum import ROOT, load_curriculum
from kata.readme import with_table
from kata.stubs import cut, public_names

NAMES = [topic.name for topic in TOPICS]


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_committed_stub_is_what_the_solution_gives(topic) -> None:
    stub = committed(topic.exercise)
    assert stub == cut(committed(topic.solution)), "run `make stubs` and commit what it wrote"
    assert f"{progress.sha256(stub.encode())}  exercises/{topic.path}.py" in committed(ROOT / progress.DIGESTS).splitlines()


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_stub_holds_nothing_of_the_answer(topic) -> None:
    """Behind each signature and docstring stand a TODO and an exception, and no helper is left."""
    stub = committed(topic.exercise)
    assert stub.count("raise NotImplementedError") == stub.count("# TODO: ") >= len(public_names(stub))
    assert public_names(stub) == public_names(ROOMS[topic.name].solution)
    assert not re.search(r"^\s*(def|class) _[a-z]", stub, re.MULTILINE)


def test_every_tree_has_the_same_rooms_and_no_strays() -> None:
    wanted = {file for lesson in load_curriculum().lessons for file in (lesson.lesson, lesson.notebook)}
    wanted |= {file for t in TOPICS for file in (t.exercise, t.solution, t.mistakes, t.grader)} | {ROOT / progress.DIGESTS}
    assert {ROOT / name for name in tracked("exercises", "solutions", "graders", "lessons")} == wanted
    for name in NAMES:
        assert (ROOT / "tests" / "oracles" / f"test_{name}.py").exists()


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_examples_in_the_docstrings_run(topic) -> None:
    results = doctest.testmod(solution(topic.name))
    assert results.failed == 0
    assert results.attempted > 0


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_every_public_name_has_a_docstring_with_a_source(topic) -> None:
    module = solution(topic.name)
    for name in public_names(ROOMS[topic.name].solution):
        text = getattr(module, name).__doc__ or ""
        assert "Source:" in text, f"{name} does not say where it comes from"


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_solution_imports_torch_math_and_typing_only(topic) -> None:
    """And where files are its subject, what Python has for them."""
    nodes = ast.walk(ast.parse(ROOMS[topic.name].solution))
    modules = [
        name for node in nodes for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")])
    ]
    legal = {"torch", "math", "typing", "collections", "__future__"} | ({"io", "os"} if topic.files else set())
    assert {module.split(".")[0] for module in modules if module} <= legal


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_every_check_has_points_and_needs_only_earlier_ones(topic) -> None:
    seen: set[str] = set()
    for check in ROOMS[topic.name].checks:
        assert check.points >= 1
        assert set(check.after) <= seen
        assert check.name not in seen
        seen.add(check.name)


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_every_size_that_a_check_names_is_met(topic) -> None:
    for check in ROOMS[topic.name].checks:
        for axis in {axis for drawn in check.inputs.values() for axis in drawn.axes}:
            met = {dict(rung.sizes)[axis] for rung in check.rungs}
            assert set(check.sizes.get(axis, ())) <= met, f"{check.name}: not every size of {axis} is on the ladder"


def test_readme_holds_the_table_of_topics() -> None:
    text = (ROOT / "README.md").read_text()
    assert with_table(text, load_curriculum()) == text, "run `make stubs`"


def test_readme_shows_what_is_shown_today(runners) -> None:
    assert recorded((ROOT / "README.md").read_text(), runners) == (ROOT / "README.md").read_text(), "run `python -m tests.record_readme`"


def test_pins_are_within_the_ranges_and_name_every_dependency() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wanted = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    assert {re.split(r"[><=;]", need)[0] for need in wanted} <= pinned


@pytest.mark.xdist_group("of_its_own")
def test_tests_of_a_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """By xdist's way of telling its processes: a version of pytest that it does not fit scatters them, without a word."""
    if hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@of_its_own")


def test_nothing_refers_outside_the_project() -> None:
    outside = re.compile(r"\.\./shared|/work" + r"/|/root" + r"/")
    for name in tracked():
        if (ROOT / name).exists():
            assert not outside.search(committed(ROOT / name)), name
