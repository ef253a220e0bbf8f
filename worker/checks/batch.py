"""One run of a check job: targets into the probe, results into the store, while others still hang.

A run that waits for slow answers takes further check jobs from the queue when no worker is free for them, so that a
handful of workers carries any number of hanging targets, and a new target is checked at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import signals
from shared.capacity import FULL
from shared.monitor import Attempt, CheckResult, Target
from shared.queues import BATCH_SIZE, CHECK_AGAIN, CHECK_SLOT, Queues, slot_name
from shared.settings import Settings
from shared.store import Defaults, Store, Watched
from worker.checks.canary import Canaries, is_canary
from worker.checks.ledger import Ledger
from worker.checks.meter import Meter
from worker.checks.quiet import Quiet
from worker.probe import Engine

RECORD_AT = 100
"""Results that are recorded together at the most."""
RECORD_SECONDS = 0.5
"""How long a result waits for others to be recorded with."""
POLL_SECONDS = 0.25
TAKE_MORE_SECONDS = 10.0
"""A run takes further jobs only while it is this young, so that it ends, and with it a worker that was asked to."""
REDIS_PATIENCE_SECONDS = 120.0
"""How long results wait in memory for a Redis that is away."""
_LEASE_SECONDS = 1.0

log = logging.getLogger("checks")


@dataclass(slots=True)
class _Slot:
    """A slot that this run works on; ``left`` are its targets without a recorded result."""

    name: str
    interval: int
    began: float
    left: set[str] = field(default_factory=set)
    is_released: bool = False


class Batch:
    """Everything one run works on. Not safe for threads; one a job.

    Running the same work twice, or late, is safe: recording drops what is not newer than what it has. A kill loses
    the results since the last record, half a second of them; what the ledger holds is checked again by others then.
    """

    def __init__(self, store: Store, queues: Queues, settings: Settings, run: str, *, by: str | None = None) -> None:
        """``run`` is the id of the job, ``by`` the name of its worker."""
        self._store = store
        self._queues = queues
        self._settings = settings
        self._run = run
        self._engine = Engine(settings, by=by)
        self._canaries = Canaries(settings.canary_urls, settings.default_http_timeout)
        self._watched: dict[str, Watched] = {}
        self._slots: dict[str, _Slot] = {}
        self._slot_of: dict[str, _Slot] = {}
        self._results: list[CheckResult] = []
        self._doubted: dict[str, Target] = {}
        self._events: list[tuple[str, str | None, dict[str, Any]]] = []
        self._quiet = Quiet(store.maintenance)
        self._defaults = Defaults.of(settings, self._quiet.holds)
        self._ledger = Ledger(store.runs, run)
        self._meter = Meter()
        # blinker holds receivers weakly: they end with this run.
        signals.check_retried.connect(self._on_retried)
        self._began = self._recorded_at = self._renewed_at = self._looked_at = time.monotonic()

    # --- taking work ---

    def add_slot(
        self,
        interval: int,
        slot: int,
        with_default: bool,
        scheduled_at: int | None = None,
        *,
        enqueued_at: int | None = None,
        held: int | None = None,
    ) -> None:
        """Take a slot's turn, unless another run is alive with it; targets past the first 500 become further jobs.

        ``held``, here and below, is the number of a job that was taken, in the ledger.
        """
        name = slot_name(interval, slot)
        if name in self._slots or not self._store.vitals.lease(name, self._run):
            return
        busy = self._store.vitals.straggling(name, now=_now()) | self._watched.keys()
        ids = [each for each in self._store.targets.slot(interval, slot, with_default=with_default) if each not in busy]
        self._queues.enqueue_rest_of_slot(interval, ids[BATCH_SIZE:], scheduled_at or _now())
        self._ledger.hold_targets(ids[:BATCH_SIZE], scheduled_at, 0, held)
        mine = _Slot(name, interval, time.monotonic())
        self._slots[name] = mine
        for watched in self._start(ids[:BATCH_SIZE], scheduled_at, enqueued_at):
            mine.left.add(watched.target.id)
            self._slot_of[watched.target.id] = mine
        if not mine.left:
            self._release(mine)

    def add_targets(
        self,
        target_ids: Sequence[str],
        scheduled_at: int | None = None,
        again: int = 0,
        *,
        enqueued_at: int | None = None,
        held: int | None = None,
    ) -> None:
        """Take targets by id, each once; those that are gone, paused or already in this run are left out."""
        ids = self._new(target_ids)
        self._ledger.hold_targets(ids, scheduled_at, again, held)
        self._start(ids, scheduled_at, enqueued_at)

    def add_opinions(
        self, target_ids: Sequence[str], again: int = 0, *, enqueued_at: int | None = None, held: int | None = None
    ) -> None:
        """Take targets whose last check failed, for one attempt that says whether they are down."""
        ids = self._new(target_ids)
        self._ledger.hold_opinions(ids, again, held)
        self._start(ids, None, enqueued_at, retries=0)

    def _new(self, target_ids: Sequence[str]) -> list[str]:
        return [each for each in dict.fromkeys(target_ids) if each not in self._watched]

    def _start(
        self,
        target_ids: Sequence[str],
        scheduled_at: int | None,
        enqueued_at: int | None,
        *,
        retries: int | None = None,
    ) -> list[Watched]:
        found = self._store.targets.load(target_ids, with_latest=False)
        started = [watched for watched in found if not watched.target.check.paused]
        for watched in started:
            target = watched.target
            self._watched[target.id] = watched
            self._canaries.expect(target)
            if retries is not None:
                target = structs.replace(target, check=target.check.model_copy(update={"retries": retries}))
            self._engine.add(target, scheduled_at, enqueued_at)
        return started

    def _take_more(self) -> None:
        """Take the first check job that waits in the queue and that nobody works on, if this run has room for it.

        One that is done takes it at once: another run would do the same, in a process of its own that costs as much as
        a hundred checks. One that still waits looks now and then, and leaves the others their share.
        """
        now, in_flight = time.monotonic(), self._engine.in_flight
        is_time = not in_flight or now - self._looked_at >= POLL_SECONDS
        if not is_time or in_flight >= FULL or now - self._began >= TAKE_MORE_SECONDS:
            return
        self._looked_at = now
        with self._tolerating_redis():
            if found := self._ledger.take_job(self._queues):
                number, taken = found
                self._add(number, taken.function, taken.args, taken.enqueued_at)

    def _add(self, held: int, function: str, args: Sequence[Any], enqueued_at: int | None) -> None:
        add: Callable[..., None] = self.add_targets
        if function == CHECK_SLOT:
            add = self.add_slot
        elif function == CHECK_AGAIN:
            add = self.add_opinions
        with self._ledger.doubting(held):
            add(*args, enqueued_at=enqueued_at, held=held)

    # --- working ---

    def work(self) -> None:
        """Until every check has ended and is recorded."""
        if not self._engine.in_flight:
            self._ledger.end()
            return
        self._store.vitals.batch_began(self._run, now=_now())
        with closing(self._engine):
            while self._engine.in_flight:
                in_flight = self._engine.in_flight
                self._results += self._canaries.hold(self._engine.poll(POLL_SECONDS))
                self._meter.flow(in_flight)
                self._note_begun()
                for canary in self._canaries.to_ask():
                    self._engine.add(canary, at_once=True)  # Not behind the hanging targets of its own host.
                self._record_if_due()
                self._keep_leases()
                self._take_more()
            self._results += self._canaries.release()
            self._record()
            self._ask_for_opinions()
        self._store.vitals.batch_ended(self._run, now=_now())
        with self._tolerating_redis():
            self._ledger.end()
            self._store.loads.add(self._meter.load(TAKE_MORE_SECONDS), now=_now())

    def _record_if_due(self) -> None:
        waited = time.monotonic() - self._recorded_at
        is_idle = not self._engine.in_flight
        if len(self._results) >= RECORD_AT or waited >= RECORD_SECONDS or is_idle:
            self._record()
        # What fails together is asked about together.
        if waited >= RECORD_SECONDS or is_idle:
            self._ask_for_opinions()

    def _record(self) -> None:
        """Record what has come in; a Redis that is away is waited for with the results in memory."""
        self._recorded_at = time.monotonic()
        patience = 0.2
        while self._results or self._events:
            try:
                self._record_once()
            except (RedisConnectionError, RedisTimeoutError):
                # Repeating is safe: what was recorded before the answer was lost is not newer any more.
                if time.monotonic() - self._recorded_at > REDIS_PATIENCE_SECONDS:
                    raise
                time.sleep(patience)
                patience = min(patience * 2, 5.0)
        self._recorded_at = time.monotonic()

    def _record_once(self) -> None:
        if self._events:
            self._store.events.publish(self._events)
            self._events.clear()
        batch = self._results[:RECORD_AT]
        recorded = self._store.recording.record(
            [(self._watched[result.target_id], result) for result in batch], self._defaults
        )
        del self._results[:RECORD_AT]
        self._meter.count(len(batch))
        for each in recorded:
            if signals.check_finished.receivers:
                signals.check_finished.send(self, target=each.target, result=each.result)
            if each.flip is not None:
                signals.target_flipped.send(self, target=each.target, flip=each.flip)
                why = f": {each.result.sentence}" if each.result.sentence else ""
                log.info("%s is %s (was %s)%s", each.target.name, each.flip.after, each.flip.before, why)
        self._doubted |= {each.target.id: each.target for each in recorded if each.wants_opinion}
        for result in batch:
            del self._watched[result.target_id]
        with self._tolerating_redis():
            self._finish([result.target_id for result in batch])

    def _ask_for_opinions(self) -> None:
        """Have failed targets checked once more, by another worker if one is free, and their parents with them.

        A kill before this line costs no more than time: the next turn is the second opinion then.
        """
        if not self._doubted:
            return
        parents = {target.check.parent for target in self._doubted.values() if target.check.parent}
        with self._tolerating_redis():
            self._queues.enqueue_opinions([*self._doubted, *sorted(parents)])
        self._doubted.clear()

    def _finish(self, target_ids: Sequence[str]) -> None:
        """Their slots are done with these targets."""
        done: dict[str, tuple[_Slot, list[str]]] = {}
        for target_id in target_ids:
            slot = self._slot_of.pop(target_id, None)
            if slot is not None:
                slot.left.discard(target_id)
                done.setdefault(slot.name, (slot, []))[1].append(target_id)
        for slot, ids in done.values():
            if slot.is_released:
                self._store.vitals.caught_up(slot.name, ids)
            elif not slot.left:
                self._release(slot)

    @contextmanager
    def _tolerating_redis(self) -> Iterator[None]:
        """For what may stay undone while Redis is away: leases and marks expire by themselves."""
        try:
            yield
        except (RedisConnectionError, RedisTimeoutError):
            log.warning("Redis is away; %d checks go on", self._engine.in_flight)

    # --- leases ---

    def _keep_leases(self) -> None:
        """Prove that this run is alive; give up slots whose next turn comes while some of their targets still hang.

        Those targets are marked, so that the next turn checks the others on time and not these a second time.
        """
        now = time.monotonic()
        if now - self._renewed_at < _LEASE_SECONDS:
            return
        self._renewed_at = now
        with self._tolerating_redis():
            for slot in list(self._slots.values()):
                if now - slot.began >= slot.interval - 2 * _LEASE_SECONDS:
                    self._store.vitals.straggle(slot.name, {each: self._deadline(each) for each in slot.left})
                    self._release(slot)
            self._store.vitals.renew(list(self._slots), self._run)
            for number, work in self._ledger.sign(self._watched):
                self._add(number, work.function, work.args, None)

    def _deadline(self, target_id: str) -> int:
        """When the target's check is over at the latest (ms); a later turn then takes it up again."""
        watched = self._watched.get(target_id)
        return _now() + (1000 * self._settings.longest_check(watched.target.check) if watched else 0)

    def _release(self, slot: _Slot) -> None:
        slot.is_released = True
        self._slots.pop(slot.name, None)
        self._store.vitals.release([slot.name], self._run)

    # --- events ---

    def _note_begun(self) -> None:
        for target_id, at in self._engine.begun():
            if not is_canary(target_id):
                self._events.append(("check_started", target_id, {"at": at}))

    def _on_retried(self, _sender: object, *, target: Target, attempt: Attempt, wait_ms: float) -> None:
        if is_canary(target.id):
            return
        self._note_begun()  # It is among them.
        self._events.append(
            ("check_retried", target.id, {"attempt": attempt.document(), "wait_ms": round(wait_ms)}),
        )


def _now() -> int:
    return int(time.time() * 1000)
