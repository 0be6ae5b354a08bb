"""Python source into a module, by path, without touching sys.path; and into a tree."""

from __future__ import annotations

import ast
import linecache
import sys
import threading
from pathlib import Path
from types import ModuleType

PARSING = threading.Lock()  # CPython 3.11 measures the depth of a tree for all threads together, and raises SystemError


def parsed(source: str, path: str | Path = "<source>") -> ast.Module:
    """As `ast.parse`, for any number of threads."""
    with PARSING:
        return ast.parse(source, str(path))


def load(source: str, path: str | Path, name: str, tree: ast.Module | None = None) -> ModuleType:
    """Execute source as the module `name`; its tracebacks show the lines of `path`.

    Args:
        tree: is executed in the source's place.

    Raises:
        SyntaxError: as Python tells it. Whatever the source raises comes through.
    """
    with PARSING:
        code = compile(source if tree is None else tree, str(path), "exec", dont_inherit=True)
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    sys.modules[name] = module  # dataclasses look their module up
    exec(code, module.__dict__)
    return module
