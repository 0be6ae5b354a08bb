"""Python source into a module, by path, without touching sys.path."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import ModuleType


def load(source: str, path: str | Path, name: str) -> ModuleType:
    """Execute source as the module `name`; its tracebacks show the lines of `path`.

    Raises:
        SyntaxError: as Python tells it. Whatever the source raises comes through.
    """
    code = compile(source, str(path), "exec", dont_inherit=True)
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    sys.modules[name] = module  # dataclasses look their module up
    exec(code, module.__dict__)
    return module
