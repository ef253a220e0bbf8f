"""Waiting for what must become true, with a deadline, instead of sleeping for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_STEP_SECONDS = 0.02


def eventually(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """What `condition` gives as soon as it gives something true; fails when that takes longer than `seconds`.

    An AssertionError inside `condition` counts as "not yet", and is what is reported in the end.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= deadline
        try:
            if outcome := condition():
                return outcome
        except AssertionError:
            if is_last:
                raise
        if is_last:
            raise AssertionError(f"not true within {seconds} s: {getattr(condition, '__qualname__', condition)}")
        time.sleep(_STEP_SECONDS)
