"""Finds calls that are off limits in the source, before anything runs.

Only code that the graded functions can reach counts: a learner may compare
with PyTorch's own operator under `if __name__ == "__main__":` or in a test of
their own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kata.guard import resolve


@dataclass(frozen=True)
class Found:
    """One use of something off limits."""

    call: str  # as the learner wrote it
    line: int
    name: str
    why: str


def scan(tree: ast.Module, rules: Sequence[tuple[str, str]], contract: Sequence[str]) -> list[Found]:
    """Uses of off-limits names in the code that the contract's names can reach, in order of lines."""
    banned: list[tuple[str, str, Any]] = []
    for name, why in rules:
        if not name.startswith("aten::"):
            banned.append((name, why, resolve(name)))
    names = imports(tree)
    values: dict[str, Any] = {}
    found = []
    for node in reachable(tree, contract):
        for part in ast.walk(node):
            dotted = dotted_name(part, names)
            if dotted is None or not dotted.startswith("torch"):
                continue
            if dotted not in values:
                values[dotted] = value_of(dotted)
            for name, why, value in banned:
                if dotted == name or dotted.startswith(name + ".") or values[dotted] is value:
                    found.append(Found(ast.unparse(part), getattr(part, "lineno", 0), name, why))
                    break
    unique = {(f.line, f.name): f for f in reversed(found)}
    return sorted(unique.values(), key=lambda f: f.line)


def imports(tree: ast.Module) -> dict[str, str]:
    """Names that the file binds by importing, and the dotted names they stand for."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if alias.name == "*" and node.module.startswith("torch"):
                    bound |= {name: f"{node.module}.{name}" for name in exported(node.module)}
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in tree.body:  # a definition of the learner's own hides an import
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.pop(node.name, None)
    return bound


def exported(module: str) -> list[str]:
    return [name for name in dir(value_of(module)) if not name.startswith("_")]


def reachable(tree: ast.Module, contract: Sequence[str]) -> Iterator[ast.AST]:
    """Top-level statements that importing the file or calling the contract's names can run."""
    definitions = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    waiting: list[ast.AST] = [node for node in tree.body if node not in definitions.values() and not is_main(node) and not is_import(node)]
    waiting += [definitions[name] for name in contract if name in definitions]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        waiting += [definitions[name] for name in used if name in definitions]


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) and "__main__" in ast.unparse(node.test)


def dotted_name(node: ast.AST, names: dict[str, str]) -> str | None:
    """The dotted name that an expression stands for, through imports and getattr with a literal."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value, names)
        return owner and f"{owner}.{node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) >= 2:
        owner, attribute = dotted_name(node.args[0], names), node.args[1]
        if owner and isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
            return f"{owner}.{attribute.value}"
    return None


def value_of(dotted: str) -> Any:
    """What a name stands for; None if that cannot be told."""
    try:
        return resolve(dotted)
    except Exception:  # PyTorch raises what it likes for names that it does not have
        return None
