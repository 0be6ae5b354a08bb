"""The answer that cells of a notebook hold: what the topic's names need, and nothing else of the notebook."""

from __future__ import annotations

import ast
import json
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kata import progress
from kata.asking import Misuse
from kata.curriculum import Topic
from kata.loading import parsed
from kata.stubs import names_of

MAGIC = ("%", "!", "?")
AROUND = ("%%time", "%%capture")  # the cell runs as it would without
CELLS = "cells"  # the folder below .kata that holds the answers of notebooks


@dataclass(frozen=True)
class Statement:
    """A piece of a cell's top level, and the names that it binds, changes and reads."""

    source: str
    binds: frozenset[str]
    changes: frozenset[str]  # parts of what is bound already
    reads: frozenset[str]
    imports: bool
    star: bool  # imports whatever there is


class NoPython(Exception):
    """A cell that defines what is asked for cannot be parsed."""


def written(topic: Topic, cells: Iterable[str]) -> Path:
    """The answer in these cells, as a file below .kata.

    Raises:
        Misuse: they define nothing that the topic asks for, or cannot be read or kept.
    """
    names = names_of(topic)
    try:
        source = answer_in(cells, names)
        if not source.strip():
            raise Misuse(f"none of {', '.join(names)} is defined: run the cells that hold them first")
        file = kept(topic)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    except NoPython as error:
        raise Misuse(str(error)) from error
    except OSError as error:
        raise Misuse(f"the answer of the cells cannot be kept in {error.filename}: {error.strerror}") from error
    return file


def kept(topic: Topic) -> Path:
    """Where the answer of a notebook's cells is kept from one check to the next."""
    return topic.root / progress.FOLDER / CELLS / f"{topic.name}.py"


def code_of(file: Path) -> list[str]:
    """The code cells of a notebook, from top to bottom.

    Raises:
        Misuse: it cannot be read.
    """
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except OSError as error:
        raise Misuse(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Misuse(f"{file} is no notebook of version 4: {error}") from error


def answer_in(cells: Iterable[str], names: Sequence[str]) -> str:
    """A file that defines the names as the cells do, run from first to last: the last definition counts.

    Statements that only print, draw or try things out stay behind.

    Raises:
        NoPython: a cell that seems to define one of the names is not legal Python.
    """
    try:
        statements = [statement for cell in cells for statement in statements_of(cell, names)]
    except (RecursionError, MemoryError) as error:
        raise NoPython("a cell is nested too deeply to be read") from error
    makers: dict[str, list[int]] = {}  # where a name is bound last, and where what it stands for is changed since
    for place, statement in enumerate(statements):
        for name in statement.changes:
            if not (name in makers and statements[makers[name][0]].imports):  # torch.manual_seed(0) makes no other torch
                makers.setdefault(name, []).append(place)
        for name in statement.binds:
            makers[name] = [place]
    needed: set[int] = set()
    waiting = [place for name in names for place in makers.get(name, ())]
    waiting += [place for place, statement in enumerate(statements) if statement.star]
    while waiting:
        place = waiting.pop()
        if place not in needed:
            needed.add(place)
            waiting += [maker for name in statements[place].reads for maker in makers.get(name, ())]
    return "\n\n\n".join(statements[place].source for place in sorted(needed)) + "\n"


def statements_of(cell: str, names: Sequence[str]) -> Iterator[Statement]:
    """The top level of a cell; a cell that is no Python has none."""
    if cell.lstrip().startswith("%%") and cell.split()[0] not in AROUND:
        return
    typed = cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # as Python sees lines: a form feed ends none
    for lines in (typed, ["" if line.startswith(MAGIC) else line for line in typed]):  # in a string such a line is no magic
        try:
            tree = parsed("\n".join(lines))
            symtable.symtable("\n".join(lines), "cell", "exec")  # which finds what is wrong with names
            break
        except (SyntaxError, ValueError) as error:
            wrong = error
    else:
        if any(f"def {name}" in cell or f"class {name}" in cell for name in names):
            raise NoPython(f"a cell cannot be read as Python: {wrong}") from wrong
        return
    for node in tree.body:
        changes = frozenset(changed_by(node))
        if isinstance(node, ast.Expr) and not changes:
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        piece = lines[first - 1 : node.end_lineno]
        piece[-1] = piece[-1].encode()[: node.end_col_offset].decode()
        if first == node.lineno:  # after a semicolon it does not begin the line
            piece[0] = piece[0].encode()[node.col_offset :].decode()
        source = "\n".join(piece)
        imports = isinstance(node, (ast.Import, ast.ImportFrom))
        star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        reads = frozenset(read_by(symtable.symtable(source, "cell", "exec")))
        yield Statement(source, frozenset(bound_by(node)), changes, reads, imports, star)


def read_by(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that come from outside; what is local to a function is not meant."""
    top = table.get_type() == "module"
    yield from (symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and (top or symbol.is_global()))
    for inner in table.get_children():
        yield from read_by(inner)


def bound_by(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds at the top level, wherever in it."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
        return
    if isinstance(node, (ast.AugAssign, ast.Lambda)):
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    for child in ast.iter_child_nodes(node):
        yield from bound_by(child)


def changed_by(node: ast.AST) -> Iterator[str]:
    """Names whose values a statement changes, wherever in it: `Model.method = ...`, `n += 1`, `table.append(1)` for its own sake."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
        yield from root_of(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if isinstance(call.func, ast.Attribute):
            yield from root_of(call.func)
        elif isinstance(call.func, ast.Name) and call.func.id in ("setattr", "delattr") and call.args:
            yield from root_of(call.args[0])
    for child in ast.iter_child_nodes(node):
        yield from changed_by(child)


def root_of(node: ast.expr) -> Iterator[str]:
    """The name that `name.attribute[0].attribute` begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
