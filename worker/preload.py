"""What every work horse needs, made once in the process that forks them."""

from __future__ import annotations

import functools
import gc

import redis.utils

import worker.jobs  # noqa: F401 -- so that no job has to import it again: 14 ms a job instead of 47
from shared.settings import settings_of_this_process
from worker.alerts import rendering
from worker.probe import Engine

_THRESHOLDS = (20_000, 20, 20)


def preload() -> None:
    """To be called once before the first fork, after all imports. Raises SettingsError.

    What is there by now is taken out of the garbage collector's sight: looking through it would be in vain, and would
    copy each page of it that a horse shares with its worker. A run makes objects by the thousand that live until they
    are recorded; at Python's own thresholds, the search for garbage among them is a twentieth of a check.
    """
    settings = settings_of_this_process()
    rendering.preload()
    # redis-py reads its own version from the disk for each connection.
    redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)
    redis.utils.get_lib_version()
    # An engine asks for so much memory at once that malloc sorts all that the imports have freed. Each horse would do
    # so, and copy an eighth of its pages for it.
    Engine(settings).close()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
