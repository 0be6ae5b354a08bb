"""Which functions of a reference an input reaches: a mistake in others does what the reference does, and need not be run.

That holds where nothing is remembered from one run to the next: a reference
must not cache in its module what it has computed.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

from kata.loading import parsed

MARK = "__reached__"  # the set in a marked module


def marked(source: str) -> ast.Module:
    """The source, whose functions and methods add their names to the module's `MARK` when they are called."""
    tree = parsed(source)
    mark_functions(tree, "")
    place = 0
    while place < len(tree.body) and stays_first(tree.body[place]):
        place += 1
    tree.body.insert(place, *ast.parse(f"{MARK} = set()").body)
    return ast.fix_missing_locations(tree)


def mark_functions(node: ast.AST, within: str) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            place = 0 if ast.get_docstring(child) is None else 1
            mark = ast.parse(f"{MARK}.add({within + child.name!r})").body[0]
            for part in ast.walk(mark):  # on the line of what comes next, so that lines executed are as many as before
                ast.copy_location(part, child.body[min(place, len(child.body) - 1)])
            child.body.insert(place, mark)
        else:
            mark_functions(child, f"{within}{child.name}." if isinstance(child, ast.ClassDef) else within)


def stays_first(statement: ast.stmt) -> bool:
    """Whether it is a docstring or an import from the future."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def differing(one: str, other: str) -> frozenset[str] | None:
    """The functions and methods in which two versions of a source differ; None if they differ elsewhere too."""
    code, its_code = compiled(one), compiled(other)
    ours, theirs = list(functions(code)), list(functions(its_code))
    if essence(code, whole=False) != essence(its_code, whole=False) or len(ours) != len(theirs):
        return None
    return frozenset(name for (name, inner), (_, its) in zip(ours, theirs, strict=True) if essence(inner) != essence(its))


@functools.lru_cache(64)
def compiled(source: str) -> CodeType:
    return compile(source, "<source>", "exec", dont_inherit=True)


def functions(code: CodeType, within: str = "") -> Iterator[tuple[str, CodeType]]:
    """Those of a module or a class; classes in it are gone into, functions are not."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and not constant.co_name.startswith("<"):  # as of lambdas and comprehensions
            if is_function(constant):
                yield within + constant.co_name, constant
            else:
                yield from functions(constant, f"{within}{constant.co_name}.")


def is_function(code: CodeType) -> bool:
    """Or else a class's body."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


def essence(code: CodeType, whole: bool = True) -> tuple[Any, ...]:
    """What code does, wherever it stands; unless `whole`, of functions that a module or class defines the names only."""

    def of(constant: Any) -> Any:
        if not isinstance(constant, CodeType):
            return repr(constant)
        outside = not whole and is_function(constant) and not constant.co_name.startswith("<")
        return constant.co_name if outside else essence(constant, whole)

    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return *names, *arguments, code.co_code, getattr(code, "co_exceptiontable", None), *map(of, code.co_consts)
