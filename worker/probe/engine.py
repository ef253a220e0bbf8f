"""The loop: takes targets into work, moves all their transfers in one thread, hands out results as they come."""

from __future__ import annotations

import heapq
import logging
import resource
import select
import ssl
import time
import traceback
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import certifi
import pycurl
from urllib3.exceptions import HTTPError

from shared.monitor import CheckResult, Target
from shared.settings import Settings
from shared.signals import check_retried, check_started
from worker.probe.interrupts import interrupts_put_off
from worker.probe.resolver import Resolver
from worker.probe.run import CheckRun
from worker.probe.transfer import Transfer

log = logging.getLogger(__name__)

BEGUN_A_TURN = 8
"""No more attempts than this begin in one turn of the loop, about a millisecond of work, so that those under way are
looked at in between and their timings stay true."""

SPARE_DESCRIPTORS = 128

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    HTTPError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pycurl.error,
)
"""What a bug or an exhausted machine may raise while one target is handled: that target's result is ``internal``. The
list is spelled out because rq's JobTimeoutException, an ordinary Exception, must get through."""

_TO_EPOLL = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


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

    def __init__(self, settings: Settings, *, max_transfers: int = 2000, ca_file: str | None = None) -> None:
        """``ca_file`` are the authorities to trust, PEM: else those of SSL_CERT_FILE, else certifi's."""
        self._settings = settings
        self._max_transfers = _fit_descriptors(max_transfers)
        self._ca_file = ca_file or _default_ca_file()
        self._runs: set[CheckRun] = set()
        self._line: deque[CheckRun] = deque()
        self._due: list[tuple[float, int, CheckRun, int]] = []  # a heap: when, tie-breaker, whose, its step then
        self._due_count = 0
        self._lookups: dict[str, list[tuple[CheckRun, int]]] = {}  # by host: who waits, and its step then
        self._transfers: dict[Transfer, CheckRun] = {}
        self._idle: list[Transfer] = []
        self._attempting: set[CheckRun] = set()
        self._finished: list[CheckResult] = []
        self._ready: list[tuple[int, int]] = []
        self._curl_due: float | None = None
        self._expected_back = 0.0
        self._resolver = Resolver()
        self._epoll = select.epoll()
        self._epoll.register(self._resolver.wake_fd, select.EPOLLIN)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- for the owner ----------------------------------------------------------------------------------------------

    def add(self, target: Target, scheduled_at: int | None = None) -> None:
        """Takes a target into work, at any time. Beyond ``max_transfers`` attempts it waits in line."""
        run = CheckRun(target, scheduled_at, self._settings)
        self._runs.add(run)
        self._line.append(run)

    def poll(self, timeout_seconds: float) -> list[CheckResult]:
        """Moves everything until at least one check is finished, and returns all that are; [] at the timeout.

        With nothing in flight it waits, too. Signal handlers run, and raise, while it waits for the network.
        """
        until = time.monotonic() + timeout_seconds
        while True:
            with interrupts_put_off():
                self._turn()
            left = until - time.monotonic()
            if self._finished or left <= 0:
                finished, self._finished = self._finished, []
                return finished
            self._wait(left)

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
        with interrupts_put_off():
            for transfer in self._transfers:
                self._multi.remove_handle(transfer.handle)
            for transfer in [*self._transfers, *self._idle]:
                transfer.close()
            self._runs.clear()
            self._line.clear()
            self._due.clear()
            self._lookups.clear()
            self._transfers.clear()
            self._idle.clear()
            self._finished.clear()
            if not self._epoll.closed:
                self._multi.close()
                self._epoll.close()
                self._resolver.close()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """One round: what the network has for us, then what the clock has, then new attempts."""
        now = time.monotonic()
        self._note_absence(now - self._expected_back)
        self._expected_back = now
        for descriptor, events in self._ready:
            if descriptor == self._resolver.wake_fd:
                self._take_lookups()
            else:
                self._multi.socket_action(descriptor, _to_curl(events))
        self._ready = []
        if self._curl_due is not None and self._curl_due <= now:
            self._curl_due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._take_exchanges()
        self._take_due(now)
        for _ in range(min(BEGUN_A_TURN, len(self._line), self._max_transfers - len(self._attempting))):
            self._begin(self._line.popleft())

    def _wait(self, longest: float) -> None:
        now = time.monotonic()
        until = now + longest
        if self._curl_due is not None:
            until = min(until, self._curl_due)
        if self._due:
            until = min(until, self._due[0][0])
        if self._line and len(self._attempting) < self._max_transfers:
            until = now
        self._expected_back = max(now, until)
        self._ready = self._epoll.poll(max(0.0, until - now), 256)

    def _note_absence(self, seconds: float) -> None:
        """The owner, or the whole process, was away: what timed out meanwhile may have been in time."""
        if seconds < 0.05:
            return
        for run in self._attempting:
            run.is_held_up = run.is_held_up or seconds > run.timeout_seconds / 4

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        """A wish of libcurl: to hear of a socket."""
        if what == pycurl.POLL_REMOVE:
            with suppress(OSError):  # It is closed already.
                self._epoll.unregister(descriptor)
            return
        try:
            self._epoll.modify(descriptor, _TO_EPOLL[what])
        except FileNotFoundError:
            self._epoll.register(descriptor, _TO_EPOLL[what])

    def _set_timer(self, milliseconds: int) -> None:
        """A wish of libcurl: to be called again, whatever the sockets do; -1 takes it back."""
        self._curl_due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    # --- one attempt, step by step ----------------------------------------------------------------------------------

    def _begin(self, run: CheckRun) -> None:
        self._attempting.add(run)
        try:
            run.begin(time.monotonic())
            if not run.attempts and check_started.receivers:
                check_started.send(self, target=run.target, at=run.started_at)
            self._send(run)
        except FAULTS as fault:
            self._break_off(run, fault)

    def _send(self, run: CheckRun) -> None:
        """Begins the exchange that the run wants next, with its name's lookup before it."""
        run.step += 1
        request = run.request
        if request.is_literal:
            self._start_transfer(run, ())
            return
        if request.host not in self._lookups:  # Else one is under way, perhaps in vain: one thread a name is enough.
            self._resolver.ask(request.host)
            self._lookups[request.host] = []
        self._lookups[request.host].append((run, run.step))
        run.lookup_began = time.monotonic()
        self._call_back(run.deadline, run)

    def _take_lookups(self) -> None:
        for lookup in self._resolver.answers():
            for run, step in self._lookups.pop(lookup.host, ()):
                if run.step != step:
                    continue  # It has given up.
                try:
                    if run.looked_up(lookup):
                        self._end(run)
                    else:
                        self._start_transfer(run, lookup.addresses)
                except FAULTS as fault:
                    self._break_off(run, fault)

    def _start_transfer(self, run: CheckRun, addresses: tuple[str, ...]) -> None:
        run.step += 1
        run.lookup_began = None
        if self._idle:
            transfer = self._idle.pop()
        else:
            transfer = Transfer(self._ca_file, block_private=self._settings.block_private_networks)
        transfer.aim(
            run.request,
            addresses,
            timeout_seconds=run.deadline - time.monotonic(),
            limit_seconds=run.timeout_seconds,
            follows=run.follows,
        )
        self._multi.add_handle(transfer.handle)
        self._transfers[transfer] = run

    def _take_exchanges(self) -> None:
        left = 1
        while left:
            left, fine, failed = self._multi.info_read()
            for handle in fine:
                self._take_exchange(handle.transfer, 0)
            for handle, error, _text in failed:
                self._take_exchange(handle.transfer, error)

    def _take_exchange(self, transfer: Transfer, error: int) -> None:
        run = self._transfers.pop(transfer)
        self._multi.remove_handle(transfer.handle)
        self._idle.append(transfer)
        try:
            if run.exchanged(transfer.exchange(error)):
                self._end(run)
            else:
                self._send(run)
        except FAULTS as fault:
            self._break_off(run, fault)

    def _break_off(self, run: CheckRun, fault: BaseException) -> None:
        """Something of ours broke: the check ends ``unknown``, all others go on."""
        place = traceback.extract_tb(fault.__traceback__)[-1]
        # Without the error's text, which may hold the URL and its secrets.
        log.error("check of %s: %s at %s:%s", run.target.id, type(fault).__name__, place.filename, place.lineno)
        run.fault(fault)
        self._finish(run)

    def _end(self, run: CheckRun) -> None:
        """An attempt is over: the check is, too, or waits for its next attempt without holding anything."""
        run.step += 1
        self._attempting.discard(run)
        wait_seconds = run.wait_seconds()
        if wait_seconds is None:
            self._finish(run)
            return
        if check_retried.receivers:
            wait_ms = round(wait_seconds * 1000)
            check_retried.send(self, target=run.target, attempt=run.attempts[-1], wait_ms=wait_ms)
        self._call_back(time.monotonic() + wait_seconds, run)

    def _finish(self, run: CheckRun) -> None:
        run.step += 1
        self._attempting.discard(run)
        self._runs.discard(run)
        self._finished.append(run.result())

    def _call_back(self, due: float, run: CheckRun) -> None:
        self._due_count += 1
        heapq.heappush(self._due, (due, self._due_count, run, run.step))

    def _take_due(self, now: float) -> None:
        """Retries whose wait is over, and lookups whose deadline has passed."""
        while self._due and self._due[0][0] <= now:
            _, _, run, step = heapq.heappop(self._due)
            if run.step != step:
                continue
            if run.lookup_began is None:
                self._line.append(run)
            else:
                self._give_up_lookup(run)

    def _give_up_lookup(self, run: CheckRun) -> None:
        try:
            run.not_looked_up()
            self._end(run)
        except FAULTS as fault:
            self._break_off(run, fault)


def _to_curl(events: int) -> int:
    """What epoll saw, in libcurl's words."""
    mask = 0
    if events & select.EPOLLIN:
        mask |= pycurl.CSELECT_IN
    if events & select.EPOLLOUT:
        mask |= pycurl.CSELECT_OUT
    if events & (select.EPOLLERR | select.EPOLLHUP):
        mask |= pycurl.CSELECT_ERR
    return mask


def _fit_descriptors(max_transfers: int) -> int:
    """How many transfers this process has descriptors for, after raising its own soft limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_transfers + SPARE_DESCRIPTORS  # pycurl holds each socket twice while it is opened.
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_transfers
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(max_transfers, (soft - SPARE_DESCRIPTORS) // 2))


def _default_ca_file() -> str:
    paths = ssl.get_default_verify_paths()
    # ``cafile`` differs from OpenSSL's built-in path only when SSL_CERT_FILE names an existing file.
    named = paths.cafile if paths.cafile != paths.openssl_cafile else None
    return named or certifi.where()
