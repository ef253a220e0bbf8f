"""The Lua scripts of the store, as Redis is given them. They stand in files, which are read when a module is imported.

Every script of the store is a file, however short: ``lua/<module>_<verb>.lua`` for the one module that runs it, which
calls it ``_<VERB>``. What several scripts need is a function of its own, ``lua/functions/<function>.lua``; one module
reads it, and lends it to the others. A name in capitals is a number that Python knows too, and puts in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).with_name("lua")


def read_script(name: str, *functions: str, **numbers: int | Sequence[int]) -> str:
    """The text of ``lua/{name}.lua``, behind these functions, read by this one too, and these numbers as locals."""
    known = "".join(f"local {number} = {_literal(value)}\n" for number, value in numbers.items())
    return "".join(functions) + known + (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _literal(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else f"{{{', '.join(map(str, value))}}}"
