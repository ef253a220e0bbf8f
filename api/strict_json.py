"""JSON as RFC 8259 has it and nothing more, bounded in depth. Pure.

Python's own reader takes NaN, duplicate keys, UTF-16, lone surrogates and a byte order mark, and dies of deep nesting.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

DEEPEST = 8
_LONGEST_NUMBER = 40

# The possessive quantifier keeps this linear, also over a string that never ends.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class NotStrictJsonError(ValueError):
    """The text of the error is one sentence for the client and holds nothing of the body."""


def parse(body: bytes) -> Any:
    """The one JSON document in ``body``; raises NotStrictJsonError."""
    text = _decode(body)
    _check_depth(text)
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise NotStrictJsonError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    if _SURROGATE_ESCAPE.search(text):
        _check_text(document)
    return document


def _decode(body: bytes) -> str:
    if not body.strip():
        raise NotStrictJsonError("the body is empty; it must be a JSON object")
    if body.startswith(b"\xef\xbb\xbf"):
        raise NotStrictJsonError("the body must not begin with a byte order mark")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStrictJsonError(f"the body must be UTF-8; byte {error.start} is not") from None


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(text):
        if match.group() in ("[", "{"):
            depth += 1
            if depth > DEEPEST:
                raise NotStrictJsonError(f"the body must not nest deeper than {DEEPEST} levels")
        elif match.group() in ("]", "}"):
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotStrictJsonError("an object in the body names a field twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise NotStrictJsonError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    _check_length(digits)
    return int(digits)


def _check_length(digits: str) -> None:
    if len(digits) > _LONGEST_NUMBER:
        raise NotStrictJsonError(f"a number in the body has more than {_LONGEST_NUMBER} digits")


def _float(digits: str) -> float:
    _check_length(digits)
    value = float(digits)
    if math.isinf(value):
        raise NotStrictJsonError("a number in the body is out of range")
    return value


def _check_text(value: Any) -> None:
    """Refuse half of a surrogate pair, which no UTF-8 can hold; the depth is bounded already."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotStrictJsonError("a string in the body holds half of a surrogate pair") from None
    elif isinstance(value, list):
        for each in value:
            _check_text(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            _check_text(name)
            _check_text(each)
