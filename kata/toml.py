"""TOML, from the standard library where it is there."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

parse = tomllib.loads
TOMLError = tomllib.TOMLDecodeError
