"""The loop: takes targets into work, moves all their transfers in one thread, hands out results as they come."""

from __future__ import annotations

import heapq
import logging
import ssl
import time
import traceback
from types import TracebackType
from typing import Self

import certifi

from shared.monitor import CheckResult, Target
from shared.settings import Settings
from shared.signals import check_retried, check_started
from worker.probe.absence import Absences
from worker.probe.failure import FAULTS
from worker.probe.interrupts import Interrupts
from worker.probe.judge import Case, Judge
from worker.probe.line import Line
from worker.probe.name_servers import NameServers
from worker.probe.purse import PURSE_BYTES, Purse
from worker.probe.resolver import Resolver
from worker.probe.run import CheckRun, Origin
from worker.probe.transfer import Transfer
from worker.probe.wire import Wire, fit_descriptors

log = logging.getLogger(__name__)

BEGUN_A_TURN = 32
"""No more attempts over plain HTTP than this begin in one turn of the loop, so that those under way are looked at in
between, ..."""
BEGUN_A_TURN_OVER_TLS = 400
"""... but so many over TLS: what begins together goes on together, each step of one beside the same step of the others,
and of so much code as TLS needs that saves a twelfth."""
BEGINNING_SECONDS = 0.02
"""Nor do they begin for longer, should somebody who listens to the signals take his time."""
BEGUN_AT_ONCE = 16
"""So many begin without a look at what has come in meanwhile: a moment."""
JUDGED_WITHIN_SECONDS = 4.0
"""After an attempt's deadline its assertions have so long to be judged, while others are judged before them."""


class Engine:
    """Checks targets, thousands at a time, in the thread that calls it.

    >>> with Engine(settings) as engine:
    ...     for target in targets:
    ...         engine.add(target)
    ...     while engine.in_flight:
    ...         record(engine.poll(1.0))

    Nothing moves between two calls of :meth:`poll`. Whoever stays away for a quarter of a target's timeout is told
    ``unknown`` for the attempts that ran out meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        by: str | None = None,
        max_transfers: int = 2000,
        ca_file: str | None = None,
        body_memory_bytes: int = PURSE_BYTES,
    ) -> None:
        """``by`` is the name of the worker, for the results.

        ``ca_file`` are the authorities to trust, PEM: else those of SSL_CERT_FILE, else certifi's.

        ``body_memory_bytes`` is what all bodies may take together that assertions ask for.
        """
        self._settings = settings
        self._by = by
        self._ca_file = ca_file or _default_ca_file()
        self._runs: set[CheckRun] = set()
        self._line = Line(fit_descriptors(max_transfers), settings.max_per_host, Purse(body_memory_bytes))
        self._due: list[tuple[float, int, CheckRun, int]] = []  # a heap: when, tie-breaker, whose, its step then
        self._due_count = 0
        self._lookups: dict[str, list[tuple[CheckRun, int]]] = {}  # by host: who waits, and its step then
        self._transfers: dict[Transfer, CheckRun] = {}
        self._idle: list[Transfer] = []
        self._finished: list[CheckResult] = []
        self._begun: list[tuple[str, int]] = []
        self._interrupts = Interrupts()
        self._absences = Absences()
        self._expected_back = time.monotonic()
        self._resolver = Resolver()
        self._name_servers = NameServers()
        self._doubtful: list[CheckRun] = []  # ended without an answer to their name; perhaps by our fault
        self._judge = Judge()
        self._cases: dict[Case, CheckRun] = {}
        self._wire = Wire(self._absences, self._resolver.wake_fd, self._judge.wake_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- for the owner ----------------------------------------------------------------------------------------------

    def add(
        self,
        target: Target,
        scheduled_at: int | None = None,
        enqueued_at: int | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        """Takes a target into work, at any time; the times (ms) are the result's.

        It waits in line while ``max_transfers`` attempts are under way, or ``max_per_host`` to its host or proxy,
        unless it is to begin ``at_once``.
        """
        run = CheckRun(target, Origin(scheduled_at, enqueued_at, self._by), self._settings, self._absences)
        run.is_at_once = at_once
        self._runs.add(run)
        self._line.join(run)

    def poll(self, timeout_seconds: float) -> list[CheckResult]:
        """Moves everything until at least one check is finished, and returns all that are; [] at the timeout.

        With nothing in flight it waits, too. Signal handlers run, and raise, while it waits for the network.
        """
        until = time.monotonic() + timeout_seconds
        self._interrupts.attend()
        while True:
            with self._interrupts:
                self._turn()
            left = until - time.monotonic()
            if self._finished or left <= 0:
                finished, self._finished = self._finished, []
                return finished
            self._wait(left)

    def begun(self) -> list[tuple[str, int]]:
        """The checks that began since the last call: ids of their targets, and when (ms)."""
        begun, self._begun = self._begun, []
        return begun

    @property
    def in_flight(self) -> int:
        """Checks that were added and not yet returned."""
        return len(self._runs) + len(self._finished)

    @property
    def target_ids(self) -> list[str]:
        """The targets of the checks in flight, in no order; one that was added twice is named twice."""
        return [run.target.id for run in self._runs] + [result.target_id for result in self._finished]

    def close(self) -> None:
        """Drops all checks and closes all sockets; waits for nobody. Closing twice is allowed."""
        with self._interrupts:
            self._wire.close()
            for transfer in self._idle:
                transfer.close()
            self._runs.clear()
            self._line.clear()
            self._due.clear()
            self._doubtful.clear()
            self._lookups.clear()
            for case in self._cases:
                case.drop()
            self._cases.clear()
            self._transfers.clear()
            self._idle.clear()
            self._finished.clear()
            self._resolver.close()
            self._judge.close()
        self._interrupts.leave()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """One round: what the network has for us, then what the clock has, then new attempts."""
        now = time.monotonic()
        self._absences.note(self._expected_back, now, is_deaf=True)
        woken = self._wire.move(now)
        if self._resolver.wake_fd in woken:
            self._take_lookups()
        if self._judge.wake_fd in woken:
            self._take_judgements()
        for transfer, error in self._wire.finished():
            self._take_exchange(transfer, error)
            self._wire.hear()
        self._take_due(now)
        self._begin_some()
        if self._doubtful:
            self._settle_doubt()
        self._wire.hear()
        self._expected_back = time.monotonic()

    def _begin_some(self) -> None:
        until = time.monotonic() + BEGINNING_SECONDS
        plain = 0
        for number, run in enumerate(self._line.begin(BEGUN_A_TURN_OVER_TLS), 1):
            self._begin(run)
            if number % BEGUN_AT_ONCE == 0:
                self._wire.set_off()
            self._wire.hear()
            plain += not run.is_over_tls
            if plain == BEGUN_A_TURN or time.monotonic() > until:
                break

    def _wait(self, longest: float) -> None:
        now = time.monotonic()
        until = now + longest
        if self._due:
            until = min(until, self._due[0][0])
        if self._line.is_moving:
            until = now
        self._expected_back = self._wire.wait(now, until)

    # --- one attempt, step by step ----------------------------------------------------------------------------------

    def _begin(self, run: CheckRun) -> None:
        is_first = not run.started_at
        try:
            run.begin(time.monotonic())
            if is_first:
                self._begun.append((run.target.id, run.started_at))
                if check_started.receivers:
                    check_started.send(self, target=run.target, at=run.started_at)
            self._send(run)
        except FAULTS as fault:
            self._break_off(run, fault)

    def _send(self, run: CheckRun) -> None:
        """Begins the exchange that the run wants next, with the lookups of its names before it."""
        run.step += 1
        if run.obstructed():
            self._end(run)
            return
        name = run.hop.name
        if name is None:
            self._start_transfer(run)
            return
        if name not in self._lookups:  # Else one is under way, perhaps in vain: one thread a name is enough.
            self._resolver.ask(name)
            self._lookups[name] = []
        self._lookups[name].append((run, run.step))
        run.lookup_began = time.monotonic()
        longest = run.timeout_seconds * run.hop.lookup_share
        self._call_back(min(run.deadline, run.lookup_began + longest), run)

    def _take_lookups(self) -> None:
        for lookup in self._resolver.answers():
            self._name_servers.note(lookup)
            for run, step in self._lookups.pop(lookup.host, ()):
                if run.step != step:
                    continue  # It has given up.
                try:
                    self._go_on(run, run.looked_up(lookup))
                except FAULTS as fault:
                    self._break_off(run, fault)
                self._wire.hear()

    def _go_on(self, run: CheckRun, is_over: bool) -> None:
        if is_over:
            self._end(run)
        elif run.case is not None:
            self._bring_to_judge(run, run.case)
        else:
            self._send(run)

    def _bring_to_judge(self, run: CheckRun, case: Case) -> None:
        run.step += 1
        self._judge.ask(case)
        self._cases[case] = run
        self._call_back(max(run.deadline, time.monotonic()) + JUDGED_WITHIN_SECONDS, run)

    def _take_judgements(self) -> None:
        for case in self._judge.judged():
            run = self._cases.pop(case)
            if run.case is not case:
                continue  # It has given up.
            try:
                if case.fault is not None:
                    raise case.fault
                self._go_on(run, run.judged(case.finding))
            except FAULTS as fault:
                self._break_off(run, fault)

    def _start_transfer(self, run: CheckRun) -> None:
        if self._idle:
            transfer = self._idle.pop()
        else:
            transfer = Transfer(self._ca_file, block_private=self._settings.block_private_networks)
        hop = run.hop
        transfer.aim(
            hop.request,
            hop.pins,
            timeout_seconds=run.deadline - time.monotonic(),
            limit_seconds=run.timeout_seconds,
            follows=run.follows,
            way=hop.way,
            connect_to=hop.connect_to,
            allowance=run.allowance,
        )
        self._wire.add(transfer)
        self._transfers[transfer] = run

    def _take_exchange(self, transfer: Transfer, error: int) -> None:
        run = self._transfers.pop(transfer)
        self._idle.append(transfer)
        try:
            exchange = transfer.exchange(error)
            if exchange.is_starved:
                self._starve(run)
            else:
                self._go_on(run, run.exchanged(exchange))
        except FAULTS as fault:
            self._break_off(run, fault)

    def _starve(self, run: CheckRun) -> None:
        """There was no memory for its body: the attempt has not been, and is made when there is some."""
        run.is_starved = True
        self._line.leave(run)
        self._line.join(run)

    def _break_off(self, run: CheckRun, fault: BaseException) -> None:
        """Something of ours broke: the check ends ``unknown``, all others go on."""
        _log(run, fault)
        run.fault(fault)
        self._finish(run)

    def _end(self, run: CheckRun) -> None:
        """An attempt is over: the check is, too, or waits for its next attempt without holding anything."""
        run.step += 1
        self._line.leave(run)
        name = run.unanswered_name
        if name is not None:
            self._name_servers.unanswered.add(name)
        wait_seconds = run.wait_seconds()
        if wait_seconds is None and name is not None and not self._name_servers.is_answering:
            self._doubtful.append(run)
            return
        if wait_seconds is None:
            self._finish(run)
            return
        if check_retried.receivers:
            wait_ms = round(wait_seconds * 1000)
            check_retried.send(self, target=run.target, attempt=run.attempts[-1], wait_ms=wait_ms)
        self._call_back(time.monotonic() + wait_seconds, run)

    def _settle_doubt(self) -> None:
        """Hands out who waited to hear whether any name server answers: when one does, or nobody asks one any more."""
        is_answering = self._name_servers.is_answering
        is_asking = self._line.is_moving or any(run.lookup_began is not None for run in self._line.begun)
        if is_asking and not is_answering:
            return
        doubtful, self._doubtful = self._doubtful, []
        for run in doubtful:
            if self._name_servers.are_away:
                run.acquit(len(self._name_servers.unanswered))
            self._finish(run)

    def _finish(self, run: CheckRun) -> None:
        run.step += 1
        self._line.leave(run)
        self._runs.discard(run)
        try:
            result = run.result()
        except FAULTS as fault:
            _log(run, fault)
            run.fault(fault)
            result = run.result()
        self._finished.append(result)

    def _call_back(self, due: float, run: CheckRun) -> None:
        self._due_count += 1
        heapq.heappush(self._due, (due, self._due_count, run, run.step))

    def _take_due(self, now: float) -> None:
        """Retries whose wait is over, and lookups and judgements whose deadline has passed."""
        while self._due and self._due[0][0] <= now:
            _, _, run, step = heapq.heappop(self._due)
            if run.step != step:
                continue
            if run.lookup_began is None and run.case is None:
                self._line.join(run)
            else:
                self._give_up(run)

    def _give_up(self, run: CheckRun) -> None:
        try:
            self._go_on(run, run.not_judged() if run.case is not None else run.not_looked_up())
        except FAULTS as fault:
            self._break_off(run, fault)


def _log(run: CheckRun, fault: BaseException) -> None:
    """Without the error's text, which may hold the URL and its secrets."""
    place = traceback.extract_tb(fault.__traceback__)[-1]
    log.error("check of %s: %s at %s:%s", run.target.id, type(fault).__name__, place.filename, place.lineno)


def _default_ca_file() -> str:
    paths = ssl.get_default_verify_paths()
    # ``cafile`` differs from OpenSSL's built-in path only when SSL_CERT_FILE names an existing file.
    named = paths.cafile if paths.cafile != paths.openssl_cafile else None
    return named or certifi.where()
