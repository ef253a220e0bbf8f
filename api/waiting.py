"""Requests that wait: for results of checks that they have asked for, in bounded time and bounded number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from api.access import Turnstile
from api.services import services
from shared.monitor import Verdict
from shared.store import Watched

T = TypeVar("T")

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.1
places = Turnstile(8, "requests that wait for results")
"""A bound of this process: each holds a thread of the server for up to a minute."""


def until(look: Callable[[], T | None], seconds: float) -> T | None:
    """What ``look`` gives as soon as it gives something true; None when the time is over."""
    deadline, pause = time.monotonic() + seconds, _SHORTEST_PAUSE_SECONDS
    while True:
        if found := look():
            return found
        if time.monotonic() + pause > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def until_checked(target_ids: Sequence[str], asked_at: int, seconds: float) -> bool:
    """Whether each target has a result of a check begun after ``asked_at`` (ms) before the time is over.

    Where a check has failed and a second opinion is on its way, that is waited for, too.
    """
    missing = list(dict.fromkeys(target_ids))

    def is_missing(watched: Watched) -> bool:
        if watched.latest is None or watched.latest["started_at"] < asked_at:
            return True
        is_in_doubt = services().settings.policy(watched.target.check).wants_opinion(watched.state)
        return is_in_doubt and watched.latest["verdict"] == Verdict.DOWN

    def all_checked() -> bool:
        # A target that somebody deletes meanwhile is not waited for.
        missing[:] = [watched.target.id for watched in services().store.targets.load(missing) if is_missing(watched)]
        return not missing

    return bool(until(all_checked, seconds))
