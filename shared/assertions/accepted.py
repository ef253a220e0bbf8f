"""Which patterns and paths are accepted: those that no answer can make slow. Pure.

Patterns are RE2's, linear in the text; but linear is 10 ns a byte *for each instruction* of the pattern where its
states are many, so the program is bounded here and the text in ``reading``. JSON paths are RFC 9535's, parsed by
jsonpath-rfc9535, without what multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped] # google-re2 ships no types
from jsonpath_rfc9535 import JSONPathEnvironment, JSONPathError, JSONPathQuery
from jsonpath_rfc9535.filter_expressions import (
    ComparisonExpression,
    Expression,
    FilterExpression,
    FilterExpressionLiteral,
    FilterQuery,
    FunctionExtension,
    LogicalExpression,
    PrefixExpression,
)
from jsonpath_rfc9535.function_extensions import Length
from jsonpath_rfc9535.segments import JSONPathRecursiveDescentSegment
from jsonpath_rfc9535.selectors import FilterSelector, JSONPathSelector

_LARGEST_PROGRAM = 2000
_LARGEST_FILTER = 60

_OPTIONS = re2.Options()
_OPTIONS.max_mem = 1024 * 1024
_OPTIONS.never_capture = True  # Only whether and where; submatches cost another pass.
_OPTIONS.log_errors = False


@lru_cache(maxsize=128)
def compiled(pattern: str) -> Any:
    return re2.compile(pattern, _OPTIONS)


def check_pattern(pattern: str) -> str:
    try:
        size = compiled(pattern).programsize
    except re2.error as error:
        if "too large" not in str(error):
            raise ValueError(
                "must be a regular expression of RE2: no look-around, no backreference, no repetition above 1000"
            ) from None
        size = _LARGEST_PROGRAM + 1
    if size > _LARGEST_PROGRAM:
        raise ValueError("must be a smaller pattern: fewer repetitions, or fewer Unicode classes and dots in them")
    return pattern


class _Environment(JSONPathEnvironment):
    """RFC 9535 without match() and search(), which backtrack, and count() and value(), which want many nodes."""

    def setup_function_extensions(self) -> None:
        self.function_extensions["length"] = Length()


_ENVIRONMENT = _Environment()


@lru_cache(maxsize=256)
def query(path: str) -> JSONPathQuery:
    return _ENVIRONMENT.compile(path)


def check_path(path: str) -> str:
    """What could select a node more often than once is refused, so that a segment costs what the document is long.

    ``$[*,*][*,*]`` doubles with each segment, ``$..*..*`` visits each node once for each of its ancestors, and a filter
    that descends, or compares two parts of the document, reads the document once for each of its members.
    """
    if path.count("(") + path.count("!") > 20:
        raise ValueError("must have fewer parentheses and exclamation marks")  # The parser recurses into them.
    try:
        parsed = query(path)
    except (JSONPathError, ValueError, LookupError, ArithmeticError, TypeError, AssertionError, RecursionError):
        # The parser lets an OverflowError through for 1e999, among others.
        raise ValueError("must be a JSON path of RFC 9535, without any function but length()") from None
    if sum(isinstance(segment, JSONPathRecursiveDescentSegment) for segment in parsed.segments) > 1:
        raise ValueError("must have '..' once at the most")
    for segment in parsed.segments:
        if len(segment.selectors) != 1:
            raise ValueError("must have one selector between brackets, without commas")
        _check_filter(segment.selectors[0])
    return path


def _check_filter(selector: JSONPathSelector) -> None:
    if not isinstance(selector, FilterSelector):
        return
    for part in _parts(selector.expression):
        if isinstance(part, FilterQuery) and not part.query.singular_query():
            raise ValueError("must have only names and indexes in the paths of a filter")
        if isinstance(part, ComparisonExpression) and not (
            isinstance(part.left, FilterExpressionLiteral) or isinstance(part.right, FilterExpressionLiteral)
        ):
            raise ValueError("must compare with a literal in a filter, not with another path")
    if filter_size(selector) > _LARGEST_FILTER:
        raise ValueError("must have a smaller filter: fewer or shorter conditions")


def _parts(expression: Expression) -> Iterator[Expression]:
    yield expression
    if isinstance(expression, FilterExpression):
        yield from _parts(expression.expression)
    elif isinstance(expression, PrefixExpression):
        yield from _parts(expression.right)
    elif isinstance(expression, LogicalExpression | ComparisonExpression):
        yield from _parts(expression.left)
        yield from _parts(expression.right)
    elif isinstance(expression, FunctionExtension):
        for argument in expression.args:
            yield from _parts(argument)


def filter_size(selector: JSONPathSelector) -> int:
    """How many steps a filter takes for each member that it looks at; 0 for the other selectors."""
    if not isinstance(selector, FilterSelector):
        return 0
    parts = list(_parts(selector.expression))
    return len(parts) + sum(3 * len(part.query.segments) for part in parts if isinstance(part, FilterQuery))
