"""What schemathesis must know to draw requests: what no schema can tell, such as which time comes after another.

Loaded by schemathesis itself, through ``SCHEMATHESIS_HOOKS``.
"""

from datetime import datetime, timedelta
from typing import Any

import re2  # type: ignore[import-untyped] # google-re2 ships no types
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.jsonschema import patterns

# Our longest text with a pattern is the value of a header. Beyond this length schemathesis does not build a text from
# its pattern, but looks for one among random texts, for ten seconds and in vain.
patterns._MAX_ANALYSED_LENGTH = 8192

_QUIET = re2.Options()
_QUIET.log_errors = False


def _is_pattern(text: str) -> bool:
    try:
        re2.compile(text, _QUIET)
    except re2.error:
        return False
    return True


schemathesis.openapi.format("re2", st.text("ab1 .*+?()[]|^$\\dw", min_size=1, max_size=20).filter(_is_pattern))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """A maintenance ends after it began, within a year."""
    if case.path.startswith("/api/v1/maintenance") and isinstance(case.body, dict):
        try:
            start, end = (datetime.fromisoformat(str(case.body[name])) for name in ("start", "end"))
            is_possible = timedelta(0) < end - start <= timedelta(days=366)
        except (KeyError, TypeError, ValueError):
            return
        if not is_possible:
            case.body["end"] = (start + timedelta(hours=2)).isoformat()
