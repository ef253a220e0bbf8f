"""One check from its first attempt to its result: which redirects are followed, what is tried again, what it means."""

from __future__ import annotations

import time

from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.response import HTTPResponse
from urllib3.util import Retry

from shared.monitor import Attempt, CheckResult, Reason, Target, Verdict
from shared.settings import Settings
from worker.probe.failure import (
    Failure,
    bad_redirect,
    held_up,
    name_failure,
    name_timeout,
    our_fault,
    too_many_redirects,
    wrong_status,
)
from worker.probe.request import Outgoing
from worker.probe.resolver import Lookup
from worker.probe.transfer import Exchange

MAX_REDIRECTS = 10

RETRIED = frozenset(
    {Reason.DNS, Reason.REFUSED, Reason.UNREACHABLE, Reason.TIMEOUT, Reason.TLS, Reason.RESET, Reason.PROTOCOL}
)
"""Failures of the connection. A certificate, a forbidden address or a redirect loop is the same a second later; a
fault of our own is told at once."""


def now_ms() -> int:
    return int(time.time() * 1000)


class CheckRun:
    """One check under way. It decides and keeps; the engine moves the bytes and tells it what came of them.

    An attempt begins with :meth:`begin`; then each name lookup and each exchange is told, until one of the calls
    answers that the attempt is over; then :meth:`wait_seconds` says whether there is another.
    """

    def __init__(self, target: Target, scheduled_at: int | None, settings: Settings) -> None:
        check = target.check
        self.target = target
        self.timeout_seconds = settings.timeout(check)
        self.started_at = 0
        self.is_held_up = False
        """Set by the engine when it did not look for a good part of the attempt."""
        self.step = 0
        """Counts what was begun, so that the engine can tell a late notice from a current one."""
        self.request: Outgoing
        self.deadline = 0.0
        self.lookup_began: float | None = None
        """When the lookup that it waits for was begun, monotonic; None when it waits for none."""
        self.attempts: list[Attempt] = []
        self._settings = settings
        self._scheduled_at = scheduled_at
        self._expected = settings.expected_code(check)
        self._retry: Retry | None = None
        self._first: Outgoing | None = None
        self._failure: Failure | None = None
        self._clear()

    def _clear(self) -> None:
        self._attempt_at = now_ms()
        self._phases: dict[str, float] = {}
        self._elapsed_ms = 0.0
        self._hops = 0
        self._address: str | None = None
        self._status_code: int | None = None
        self._failure = None
        self.is_held_up = False

    @property
    def follows(self) -> bool:
        """Whether redirects are followed: unless one is what is expected."""
        return not 300 <= self._expected <= 399

    def begin(self, now: float) -> None:
        """Begins an attempt; ``now`` is monotonic. Raises ValueError for a URL that requests cannot prepare."""
        self._clear()
        self.started_at = self.started_at or self._attempt_at
        self.deadline = now + self.timeout_seconds
        self._first = self._first or Outgoing.prepare(self.target.check.endpoint)
        self.request = self._first

    # --- what came of a step: True says that the attempt is over ----------------------------------------------------

    def looked_up(self, lookup: Lookup) -> bool:
        self._spend_lookup(lookup.ended_at)
        if lookup.error is None:
            return False
        return self.fail(name_failure(self.request.host, lookup.error))

    def not_looked_up(self) -> bool:
        """The deadline passed while the name was being resolved."""
        self._spend_lookup(time.monotonic())
        return self.fail(name_timeout(self.request.host, self.timeout_seconds))

    def exchanged(self, exchange: Exchange) -> bool:
        self._spend(exchange.phases)
        self._address = exchange.address
        self._status_code = exchange.status_code
        if exchange.failure is not None:
            return self.fail(exchange.failure)
        if exchange.location is not None:
            return self._redirect(exchange.location)
        if exchange.status_code != self._expected:
            return self.fail(wrong_status(self._expected, exchange.status_code or 0, self._hops))
        return self._end()

    def fail(self, failure: Failure) -> bool:
        if failure.reason is Reason.TIMEOUT and self.is_held_up:
            failure = held_up()
        self._failure = failure
        return self._end()

    def fault(self, error: BaseException) -> None:
        """Something broke in the monitor itself."""
        self.fail(our_fault(error))

    def _spend_lookup(self, ended_at: float) -> None:
        begun = ended_at if self.lookup_began is None else self.lookup_began
        self.lookup_began = None
        self._spend({"dns": max(0.0, ended_at - begun) * 1000})

    def _spend(self, phases: dict[str, float]) -> None:
        for name, ms in phases.items():
            self._phases[name] = self._phases.get(name, 0.0) + ms
            self._elapsed_ms += ms

    def _redirect(self, location: str) -> bool:
        self._hops += 1
        if self._hops > MAX_REDIRECTS:
            return self.fail(too_many_redirects(MAX_REDIRECTS))
        try:
            self.request = self.request.redirected(location)
        except ValueError:
            return self.fail(bad_redirect())
        return False

    def _end(self) -> bool:
        failure = self._failure
        self.attempts.append(
            Attempt(
                started_at=self._attempt_at,
                elapsed_ms=self._elapsed_ms,
                phases=self._phases,
                status_code=self._status_code,
                reason=failure.reason if failure else None,
                phase=failure.phase if failure else None,
                address=self._address,
            )
        )
        return True

    # --- what comes after an attempt --------------------------------------------------------------------------------

    def wait_seconds(self) -> float | None:
        """How long to wait before the next attempt, as urllib3's Retry says; None when the check is over."""
        failure = self._failure
        if failure is None:
            return None
        retry = self._retry or self._policy()
        status_code = self._status_code or 0
        try:
            if failure.reason in RETRIED:
                self._retry = retry.increment(error=HTTPError(failure.reason))
            elif failure.reason is Reason.STATUS and retry.is_retry("GET", status_code):
                self._retry = retry.increment(response=HTTPResponse(status=status_code))
            else:
                return None
        except MaxRetryError:
            return None
        return self._retry.get_backoff_time()

    def _policy(self) -> Retry:
        check = self.target.check
        return Retry(
            total=self._settings.retries(check),
            status_forcelist=self._settings.error_codes(check),
            allowed_methods=None,
            backoff_factor=self._settings.backoff_factor(check),
            respect_retry_after_header=False,
        )

    def result(self) -> CheckResult:
        failure = self._failure
        return CheckResult(
            target_id=self.target.id,
            revision=self.target.revision,
            verdict=_verdict(failure),
            attempts=tuple(self.attempts),
            started_at=self.started_at,
            finished_at=now_ms(),
            scheduled_at=self._scheduled_at,
            reason=failure.reason if failure else None,
            sentence=failure.sentence if failure else None,
        )


def _verdict(failure: Failure | None) -> Verdict:
    if failure is None:
        return Verdict.UP
    return Verdict.UNKNOWN if failure.reason is Reason.INTERNAL else Verdict.DOWN
