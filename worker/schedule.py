"""What the schedule ought to hold: one entry for each slot of each interval in use, and one for the snapshot. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shared import queues
from shared.store.targets import buckets_of_slot, slot_count

SNAPSHOT = "snapshot"
SNAPSHOT_SECONDS = 10
SNAPSHOT_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the schedule. Its turns are at ``phase_seconds`` + k x ``interval`` since the epoch, for whole k.

    The grid is absolute, so that every scheduler, and the same one after a restart, has the same turns.
    """

    name: str
    queue: str
    function: str
    args: tuple[int | bool, ...]
    interval: int
    phase_seconds: float
    timeout: int

    def next_turn(self, now: float) -> float:
        """The first turn after ``now`` (seconds since the epoch)."""
        return self.phase_seconds + (math.floor((now - self.phase_seconds) / self.interval) + 1) * self.interval


def wanted(intervals: Mapping[int, set[int]], default_interval: int, timeout: int) -> dict[str, Entry]:
    """The schedule for these targets: ``intervals`` maps an interval (0: the default) to its buckets in use.

    Targets without an interval of their own share the slots of those that name the default explicitly.
    """
    entries = {SNAPSHOT: snapshot_entry()}
    buckets: dict[int, set[int]] = {}
    for interval, numbers in intervals.items():
        buckets.setdefault(interval or default_interval, set()).update(numbers)
    for interval, numbers in buckets.items():
        with_default = interval == default_interval
        for slot in range(slot_count(interval)):
            if not numbers.isdisjoint(buckets_of_slot(interval, slot)):
                entry = _slot_entry(interval, slot, with_default, timeout)
                entries[entry.name] = entry
    return entries


def snapshot_entry() -> Entry:
    return Entry(
        name=SNAPSHOT,
        queue=queues.HOUSEKEEPING,
        function=queues.KEEP_SNAPSHOT,
        args=(),
        interval=SNAPSHOT_SECONDS,
        phase_seconds=0.0,
        timeout=SNAPSHOT_TIMEOUT_SECONDS,
    )


def _slot_entry(interval: int, slot: int, with_default: bool, timeout: int) -> Entry:
    return Entry(
        name=queues.slot_name(interval, slot),
        queue=queues.CHECKS,
        function=queues.CHECK_SLOT,
        args=(interval, slot, with_default),
        interval=interval,
        phase_seconds=slot * interval / slot_count(interval),
        timeout=timeout,
    )
