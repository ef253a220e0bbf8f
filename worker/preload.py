"""What every work horse needs, made once in the process that forks them."""

from __future__ import annotations

import gc

import worker.jobs  # noqa: F401 -- so that no job has to import it again: 14 ms a job instead of 47
from worker import rendering

_THRESHOLDS = (20_000, 20, 20)


def preload() -> None:
    """To be called once before the first fork, after all imports.

    What is there by now is taken out of the garbage collector's sight: looking through it would be in vain, and would
    copy each page of it that a horse shares with its worker. A run makes objects by the thousand that live until they
    are recorded; at Python's own thresholds, the search for garbage among them is a twentieth of a check.
    """
    rendering.preload()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
