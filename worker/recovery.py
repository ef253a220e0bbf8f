"""Makes the checks again that vanished with their worker, be it killed or its machine without power.

Two things are looked for each second. Runs whose sign of life is overdue: of their targets, those without a result are
enqueued at the front. And jobs that a worker took out of the queue and of which no run was heard: the worker vanished
between its pop and the first words of its run, or Redis handed the job to a machine that was gone already.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable

from redis.client import Pipeline

from shared.queues import CHECK_AGAIN, CHECK_SLOT, CHECK_TARGETS, Queues, batches
from shared.settings import Settings
from shared.store import Store, Watched, Work
from shared.store.runs import SIGN_MS
from worker.alerts.words import counted

SILENT_SECONDS = 10.0
"""From the pop of a job to the first words of its run it is some tens of milliseconds."""
MOST_TIMES = 3
"""So often is work taken up again. Whatever ends each worker that touches it waits for its next turn then."""
_GAP_SECONDS = 5.0
"""Who has not looked for so long, by its own clock or that of Redis, was itself away, or Redis was."""

log = logging.getLogger("recovery")


class Recovery:
    """Remembers what it saw a moment ago; any number of schedulers have one each."""

    def __init__(self, store: Store, queues: Queues, settings: Settings) -> None:
        self._store = store
        self._queues = queues
        self._settings = settings
        self._looked_at = (-math.inf, -math.inf)
        self._watching_since = math.inf
        self._in_hand_since: dict[str, float] = {}
        self._known: set[str] = set()

    def look(self, *, now: int) -> int:
        """Enqueue what vanished; how many runs and jobs that was. ``now`` is Redis' clock (ms).

        Where nothing is amiss it costs one round trip for the signs, and one for the jobs. After a gap, of ours or of
        Redis, nobody can have seen signs for a while: all have the time of one sign to show that they live.
        """
        moment = time.monotonic()
        self._note_gap(moment, now / 1000)
        vanished = self._vanished_jobs(moment)
        if moment - self._watching_since >= SIGN_MS / 1000:
            vanished += [run for run in self._store.runs.overdue(now=now) if self._take_up(run, now)]
        return len(vanished)

    def _note_gap(self, moment: float, now: float) -> None:
        passed = (moment - self._looked_at[0], now - self._looked_at[1])
        self._looked_at = (moment, now)
        if not all(0 <= seconds < _GAP_SECONDS for seconds in passed):
            self._watching_since = moment
            self._in_hand_since.clear()

    def note_absence(self) -> None:
        """Redis was away: however short that was for us, runs may wait for seconds until they try again."""
        self._looked_at = (-math.inf, -math.inf)

    # --- runs ---

    def _take_up(self, run: str, now: int) -> bool:
        is_taken = self._store.runs.take_up(run, self._plan, now=now)
        if is_taken:
            log.warning("the run %s has vanished; what it had not recorded is checked again", run)
        return is_taken

    def _plan(self, held: list[Work]) -> Callable[[Pipeline], None]:
        jobs = [job for work in held for job in self._jobs(work)]

        def enqueue(pipe: Pipeline) -> None:
            # Each goes before those that are there already.
            for job in reversed(jobs):
                self._queues.enqueue_work(job, pipe)

        return enqueue

    def _jobs(self, work: Work) -> Iterable[Work]:
        """The jobs that do what is left of a piece of work."""
        if work.function == CHECK_SLOT:
            yield work
            return
        ids, *others = work.args
        scheduled_at = others.pop(0) if others and work.function == CHECK_TARGETS else None
        again = 1 + (others[0] if others else 0)
        if again > MOST_TIMES:
            log.error("%s ended their worker %d times; their next turn is the next", counted(len(ids), "check"), again)
            return
        left, doubted = self._left(ids, work.began)
        for batch in batches(left):
            rest = (scheduled_at, again) if work.function == CHECK_TARGETS else (again,)
            yield Work(0, work.function, (batch, *rest))
        for batch in batches(doubted):
            yield Work(0, CHECK_AGAIN, (batch, again))

    def _left(self, target_ids: list[str], began: int) -> tuple[list[str], list[str]]:
        """Of these targets, those without a result since then; and those whose result wants a second opinion.

        Those that are gone or paused are neither. An opinion that was asked for already is given twice, no more.
        """
        found = [each for each in self._store.targets.load(target_ids) if not each.target.check.paused]
        left = [each.target.id for each in found if each.state.checked_at < began]
        doubted = [each.target.id for each in found if each.state.checked_at >= began and self._is_doubted(each)]
        return left, doubted

    def _is_doubted(self, watched: Watched) -> bool:
        return self._settings.policy(watched.target.check).wants_opinion(watched.state)

    # --- jobs without a run ---

    def _vanished_jobs(self, moment: float) -> list[str]:
        in_hand = self._queues.in_hand()
        self._in_hand_since = {job_id: self._in_hand_since.get(job_id, moment) for job_id in in_hand}
        self._known &= in_hand
        silent = {job_id for job_id, since in self._in_hand_since.items() if moment - since >= SILENT_SECONDS}
        silent -= self._known
        vanished = [job_id for job_id in sorted(silent - self._store.runs.have_begun(silent)) if self._again(job_id)]
        # The others have a run, which is watched by its signs, or are no checks.
        self._known |= silent
        return vanished

    def _again(self, job_id: str) -> bool:
        is_done = self._queues.enqueue_again(job_id)
        if is_done:
            log.warning("the job %s was taken by a worker that has vanished; it is enqueued again", job_id)
        return is_done
