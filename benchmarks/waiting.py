"""Waiting for what must become true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    what: str,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    step_seconds: float = 0.05,
) -> None:
    """Raises TimeoutError, which names ``what``, when it does not hold within ``seconds``.

    ``meanwhile`` is called between two looks, which are ``step_seconds`` apart.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        meanwhile()
        time.sleep(step_seconds)
