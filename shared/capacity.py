"""How many workers the checks need. Pure.

A worker is saturated by one of two things, whichever comes first; each is an offered load in the sense of queueing
theory, the number of workers that it would keep busy without a pause (arrival rate x what one check takes of one):

* its processor: CPU seconds of a run / its checks. Waiting for answers is no work: one run waits for thousands.
* its room: checks that are under way at once (Little's law: rate x mean seconds under way) in the FULL places of a
  run. A run takes further work only in its first seconds, and then waits for its slowest check: the places count by
  the share of its time in which it was open.

As many workers are needed as make the greater of the two no more than TARGET_UTILISATION of what they can do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FULL = 1500
"""With this many checks under way a run takes no further job."""
TARGET_UTILISATION = 0.7
"""Beyond it, waiting times of a queue grow steeply; what is left is for bursts, and for a worker that is missing."""
_LEAST_OPEN = 0.05
"""A run that was hardly open is not taken at its word: a single slow check does that to it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What runs did in a span of time: sums over them.

    ``flight_seconds`` adds up how long each check was under way, ``run_seconds`` how long each run took, and
    ``open_seconds`` how much of that it was ready to take further jobs.
    """

    checks: int = 0
    cpu_seconds: float = 0.0
    flight_seconds: float = 0.0
    run_seconds: float = 0.0
    open_seconds: float = 0.0


def needed_workers(load: Load, *, checks_per_second: float) -> int | None:
    """How many workers it takes to make so many checks a second, 1 at least; None while nothing was measured."""
    if not load.checks:
        return None
    by_processor = checks_per_second * load.cpu_seconds / load.checks
    open_share = max(_LEAST_OPEN, min(1.0, load.open_seconds / load.run_seconds)) if load.run_seconds else 1.0
    by_room = checks_per_second * load.flight_seconds / load.checks / (FULL * open_share)
    return max(1, math.ceil(max(by_processor, by_room) / TARGET_UTILISATION))
