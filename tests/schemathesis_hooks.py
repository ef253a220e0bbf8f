"""What schemathesis must know to draw requests: the one format of ours that no pattern can tell.

Loaded by schemathesis itself, through ``SCHEMATHESIS_HOOKS``.
"""

import re2  # type: ignore[import-untyped] # google-re2 ships no types
import schemathesis
from hypothesis import strategies as st

_QUIET = re2.Options()
_QUIET.log_errors = False


def _is_pattern(text: str) -> bool:
    try:
        re2.compile(text, _QUIET)
    except re2.error:
        return False
    return True


schemathesis.openapi.format("re2", st.text("ab1 .*+?()[]|^$\\dw", min_size=1, max_size=20).filter(_is_pattern))
