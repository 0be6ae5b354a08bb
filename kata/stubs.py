"""Cuts a stub from a solution.

Bodies of public functions and methods are replaced by a TODO; private helpers
go whole; a definition whose first line ends in `# given` stays as it is. The
cut replaces source lines, so comments and layout of the rest survive.
"""

from __future__ import annotations

import ast
import json

from kata.curriculum import Topic
from kata.loading import parsed

GIVEN = "# given"
Definition = ast.FunctionDef | ast.AsyncFunctionDef


def public_names(source: str) -> list[str]:
    """The names that a solution's file defines for others: its contract."""
    body = parsed(source).body
    return [n.name for n in body if isinstance(n, (Definition, ast.ClassDef)) and not n.name.startswith("_")]


def names_of(topic: Topic) -> list[str]:
    """The names that a topic asks for."""
    if topic.solution.exists():
        return public_names(topic.solution.read_text(encoding="utf-8"))
    return list(json.loads(topic.recorded.with_suffix(".json").read_text(encoding="utf-8"))["names"])


def cut(source: str) -> str:
    """The stub of a solution's source."""
    tree = parsed(source)
    lines = source.splitlines()
    cuts: list[tuple[int, int, list[str]]] = []  # first line, line after the last, what stands there instead
    for node in tree.body:
        cuts += cuts_in(node, lines)
    for start, end, instead in sorted(cuts, reverse=True):
        lines[start:end] = instead
    return "\n".join(lines).rstrip() + "\n"


def cuts_in(node: ast.stmt, lines: list[str]) -> list[tuple[int, int, list[str]]]:
    if not isinstance(node, (Definition, ast.ClassDef)) or lines[node.lineno - 1].rstrip().endswith(GIVEN):
        return []
    if private(node.name):
        return [whole(node, lines)]
    if isinstance(node, ast.ClassDef):
        return [piece for member in node.body for piece in cuts_in(member, lines)]
    return [body_of(node, lines)]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def whole(node: Definition | ast.ClassDef, lines: list[str]) -> tuple[int, int, list[str]]:
    """A definition with its decorators, the comment above it and the blank lines after it."""
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    end = node.end_lineno or node.lineno
    after = end
    while after < len(lines) and not lines[after].strip():
        after += 1
    if after < len(lines) and indent_of(lines[after]) == node.col_offset:
        return start, after, []
    while start > 0 and not lines[start - 1].strip():  # the last of its class: the blank lines before it go
        start -= 1
    return start, end, []


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def body_of(node: Definition, lines: list[str]) -> tuple[int, int, list[str]]:
    """Everything behind the signature and the docstring."""
    first = node.body[0]
    indent = " " * (node.col_offset + 4)
    start = first.lineno - 1
    if ast.get_docstring(node) is not None:
        start = first.end_lineno or first.lineno
    end = node.end_lineno or node.lineno
    instead = [f"{indent}# TODO: {task(node)}", f"{indent}raise NotImplementedError"]
    before = lines[first.lineno - 1].encode()[: first.col_offset].decode().rstrip()
    if start == first.lineno - 1 and before:  # the body stands on the line of its signature
        instead.insert(0, before)
    return start, end, instead


def task(node: Definition) -> str:
    """What the TODO asks for."""
    if node.name == "__init__":
        return "make the parameters and whatever else it takes."
    return "write it as described above." if ast.get_docstring(node) else f"write {node.name}."
