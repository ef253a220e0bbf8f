"""One check from its first attempt to its result: its hops, its judgement, and what it leaves behind."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import lru_cache
from zlib import crc32

from msgspec import Struct, structs

from shared.addresses import parse_address
from shared.assertions import Answer, Broken, Finding, TooMuchError, quick_finding
from shared.check import Check
from shared.monitor import AnswerSeen, Attempt, CheckResult, Reason, Target, Verdict
from shared.settings import Settings
from worker.probe.absence import Absences
from worker.probe.certificate import certificate_days, certificate_seen
from worker.probe.evidence import LONGEST_BODY, concealer, evidence, leads_to, summary, without_secrets
from worker.probe.exchange import Exchange, header_fields
from worker.probe.failure import (
    FAULTS,
    Failure,
    bad_redirect,
    broken_assertion,
    held_up,
    no_name_server,
    not_judged,
    our_fault,
    too_many_redirects,
    undecided_assertion,
    wrong_status,
)
from worker.probe.hop import Hop, Rules
from worker.probe.judge import Case
from worker.probe.proxy import Proxy
from worker.probe.purse import Allowance, needs_body
from worker.probe.redirects import MAX_REDIRECTS, following, follows
from worker.probe.request import Outgoing
from worker.probe.resolver import Lookup
from worker.probe.retries import Retries
from worker.probe.way import Way

LOOKED_AT = frozenset({Reason.CERTIFICATE, Reason.STATUS, Reason.ASSERTION})
"""Failures that the server's certificate is evidence of, worth a handshake of its own where it is not known."""
LONGEST_LOOK_SECONDS = 3.0
SHORTEST_LOOK_SECONDS = 0.05
LOOK_EVERY_SECONDS = 3600
"""How often the certificate of a target that is well is looked at, about; see :meth:`CheckRun._reads_certificate`."""

_OF_ONE_STEP = ("connect", "wait")
"""Phases in which one thing is waited for, which the kernel or the server does without us."""
_REPEATABLE = (None, "GET", "HEAD", "OPTIONS")

Place = str
"""A host, spelled in one way."""


class Origin(Struct, frozen=True):
    """Where a check comes from, as its result tells: times in ms, None for what is not known."""

    scheduled_at: int | None = None
    enqueued_at: int | None = None
    by: str | None = None


def now_ms() -> int:
    return int(time.time() * 1000)


class CheckRun:
    """One check under way. It decides and keeps; the engine moves the bytes and tells it what came of them.

    An attempt begins with :meth:`begin`; then each name lookup and each exchange is told, until one of the calls
    answers that the attempt is over; then :meth:`wait_seconds` says whether there is another.
    """

    def __init__(self, target: Target, origin: Origin, settings: Settings, absences: Absences) -> None:
        check = target.check
        self.target = target
        self.timeout_seconds = settings.timeout(check)
        self.started_at = 0
        self.step = 0
        """Counts what was begun, so that the engine can tell a late notice from a current one."""
        self.hop: Hop
        """The request that is to be made now."""
        self.deadline = 0.0
        self.lookup_began: float | None = None
        """When the lookup that it waits for was begun, monotonic; None when it waits for none."""
        self.case: Case | None = None
        """The assertions that it wants judged; None when it waits for no judgement."""
        self.attempts: list[Attempt] = []
        self.follows = follows(check, settings)
        self.keeps_body = check.assertions is not None and needs_body(check.assertions)
        self.is_repeatable = check.method in _REPEATABLE
        """Whether asking twice changes nothing."""
        self.is_at_once = False
        """Set by the engine when it waits for no other."""
        self.is_starved = False
        """Set by the engine when an attempt was given up because there was no memory for its body."""
        self.allowance: Allowance | None = None
        """What it has drawn from the engine's memory for bodies; the line's to give and to take."""
        self._check = check
        self._settings = settings
        self._origin = origin
        self._rules = Rules(settings.block_private_networks, check.ip_version)
        self._absences = absences
        self._retries: Retries | None = None
        self._first: Outgoing | None = None
        self._place: Place | None = None
        self._failure: Failure | None = None
        self._clear()

    def _clear(self) -> None:
        self._attempt_at = now_ms()
        self._phases: dict[str, float] = {}
        self._elapsed_ms = 0.0
        self._late_ms = 0.0  # what is not in them, because our loop was late
        self._redirects: list[str] = []  # as they came, with their secrets
        self._exchange: Exchange | None = None
        self._address: str | None = None
        self._status_code: int | None = None
        self._failure = None
        self._began = 0.0
        self._is_looking = False
        self._is_over = False
        self._drop_case()
        self._lost_seconds = 0.0

    @property
    def place(self) -> Place:
        """Whom its attempts are made to: the proxy where there is one. Redirects may lead elsewhere, uncounted.

        What cannot be prepared goes to nobody: :meth:`begin` will say so.
        """
        if self._place is None:
            try:
                self._first = Outgoing.prepare(self._check)
                proxy = Proxy.parse(self._check.proxy) if self._check.proxy else None
                host = proxy.host if proxy else self._first.host
            except FAULTS:
                host = ""
            self._place = _place(host)
        return self._place

    @property
    def is_over_tls(self) -> bool:
        return self._first is not None and self._first.is_https

    def begin(self, now: float) -> None:
        """Begins an attempt; ``now`` is monotonic. Raises ValueError for a URL that requests cannot prepare."""
        if self.started_at:
            self._clear()
        self._attempt_at = now_ms()
        self.started_at = self.started_at or self._attempt_at
        self._began = now
        self.deadline = now + self.timeout_seconds
        self._first = self._first or Outgoing.prepare(self._check)
        self.hop = self._hop(self._first, Way.of(self._check))

    def _hop(self, request: Outgoing, way: Way | None) -> Hop:
        if request.is_https and self._reads_certificate():
            way = replace(way or Way(), reads_certificate=True)
        return Hop(request, way, self._rules)

    def _reads_certificate(self) -> bool:
        """Whether libcurl is to list the server's certificates, which costs a sixth of an HTTPS check.

        It is where an assertion asks for it, and where something is wrong already; else in one turn an hour, which
        differs from target to target, and outside the schedule, when somebody wants to see.
        """
        if self.attempts or self._origin.scheduled_at is None:
            return True
        if any("certificate" in assertion.type for assertion in self._check.assertions or ()):
            return True
        seconds = self._origin.scheduled_at // 1000 + crc32(self.target.id.encode())
        return seconds % LOOK_EVERY_SECONDS < self._settings.interval(self._check)

    # --- what came of a step: True says that the attempt is over ----------------------------------------------------

    def obstructed(self) -> bool:
        """Asked before a hop is made."""
        failure = self.hop.obstacle()
        return failure is not None and self.fail(failure)

    def looked_up(self, lookup: Lookup) -> bool:
        self._spend_lookup(lookup.ended_at)
        failure = self.hop.looked_up(lookup)
        return failure is not None and self.fail(failure)

    def not_looked_up(self) -> bool:
        """The time for the lookup has passed."""
        self._spend_lookup(time.monotonic())
        failure = self.hop.not_looked_up(self.timeout_seconds)
        return failure is not None and self.fail(failure)

    def exchanged(self, exchange: Exchange) -> bool:
        if self._is_looking:
            return self._looked(exchange)
        for name, ms in exchange.phases.items():
            self._spend(name, ms)
        self._late_ms += exchange.late_ms
        # What took that long may have taken less, even without what is known to have been late.
        self._lost_seconds = max(0.0, self._absences.lost_since(self._began) - self._late_ms / 1000)
        self._address = exchange.address
        self._status_code = exchange.status_code
        failure = exchange.failure
        if exchange.is_undecodable:
            failure = self._judge_status(exchange) or failure
        if failure is None and exchange.location is not None and self.follows:
            self._exchange = exchange
            return self._redirect(exchange, exchange.location)
        # But for the judgement a whole body is of no use; the run may wait for its next attempt for a while.
        self._exchange = (
            structs.replace(exchange, body=bytes(exchange.body[:LONGEST_BODY])) if self.keeps_body else exchange
        )
        if failure is None:
            failure = self._judge_status(exchange)
        if failure is not None:
            return self.fail(failure)
        return self._judge(exchange) if self._check.assertions else self._end()

    def judged(self, found: Finding) -> bool:
        self._drop_case()
        if found is None:
            return self._end()
        sentence = without_secrets(self._check, found.sentence)
        return self.fail(broken_assertion(sentence) if isinstance(found, Broken) else undecided_assertion(sentence))

    def not_judged(self) -> bool:
        """The time for the judgement has passed."""
        self._drop_case()
        return self.fail(not_judged())

    def _drop_case(self) -> None:
        if self.case is not None:
            self.case.drop()
            self.case = None

    def fail(self, failure: Failure) -> bool:
        if failure.reason is Reason.TIMEOUT:
            if failure.phase is not None:
                self._spend(failure.phase, self._late_ms)  # Its time went by with that of earlier hops, too.
            if self._missed_seconds(failure) > self.timeout_seconds / 4:
                failure = held_up()
        self._failure = failure
        if self._wants_a_look(failure):
            self._is_looking = True
            self.deadline = min(self.deadline, time.monotonic() + LONGEST_LOOK_SECONDS)
            self.hop = self.hop.for_a_look()
            return False
        return self._end()

    def _missed_seconds(self, failure: Failure) -> float:
        """How much of the attempt was lost on it because nobody listened."""
        way = self.hop.way
        waited_ms = 0.0
        if failure.phase == "dns":
            waited_ms = self._phases.get("dns", 0.0)
        elif failure.phase in _OF_ONE_STEP and self._exchange is not None and (way is None or way.proxy is None):
            waited_ms = self._exchange.phases.get(failure.phase, 0.0)
        return self._absences.missed(self._began, self.deadline - waited_ms / 1000, self.deadline)

    def fault(self, error: BaseException) -> None:
        """Something broke in the monitor itself."""
        self._failure = our_fault(error)
        self._drop_case()
        if not self._is_over:
            self._end()

    @property
    def unanswered_name(self) -> str | None:
        """The name that its last attempt failed for because no name server answered."""
        return self._failure.unanswered_name if self._failure is not None else None

    def acquit(self, names: int) -> None:
        """No name server answered for any of so many names: that says nothing of the target."""
        self._failure = no_name_server(names)

    def _spend_lookup(self, ended_at: float) -> None:
        begun = ended_at if self.lookup_began is None else self.lookup_began
        self.lookup_began = None
        self._spend("dns", max(0.0, ended_at - begun) * 1000)

    def _spend(self, phase: str, ms: float) -> None:
        self._phases[phase] = self._phases.get(phase, 0.0) + ms
        self._elapsed_ms += ms

    def _redirect(self, exchange: Exchange, location: str) -> bool:
        limit = MAX_REDIRECTS if self._check.max_redirects is None else self._check.max_redirects
        if len(self._redirects) >= limit:
            return self.fail(too_many_redirects(limit))
        request, way = self.hop.request, self.hop.way
        try:
            onward = following(request, exchange.status_code or 0, location)
        except ValueError:
            return self.fail(bad_redirect())
        self._redirects.append(onward.url)
        if way is not None and onward.origin != request.origin:
            way = way.to_another_origin()
        self.hop = self._hop(onward, way)
        return False

    def _judge_status(self, exchange: Exchange) -> Failure | None:
        check, code = self._check, exchange.status_code or 0
        if self._settings.expects(check, code):
            return None
        where = leads_to(check, self.hop.request, exchange.location) if exchange.location else None
        return wrong_status(self._settings.expectation(check), code, len(self._redirects), where)

    def _judge(self, exchange: Exchange) -> bool:
        """Holds the assertions against a complete answer: at once, or, where that may take long, as a case."""
        assertions = self._check.assertions or ()
        answer = Answer(
            headers=tuple(header_fields(exchange.header)),
            body=exchange.body,
            elapsed_ms=self._elapsed_ms,
            certificate_days=certificate_days(certificate_seen(exchange.chain), now_ms()),
            lost_ms=self._lost_seconds * 1000,
            conceal=concealer(self._check),
        )
        try:
            return self.judged(quick_finding(assertions, answer))
        except TooMuchError:
            self.case = Case(assertions, answer)
            return False

    # --- a second look at the certificate ---------------------------------------------------------------------------

    def _wants_a_look(self, failure: Failure) -> bool:
        return (
            failure.reason in LOOKED_AT
            and self._exchange is not None
            and self._exchange.chain is None
            and self.hop.request.is_https
            and self.deadline - time.monotonic() > SHORTEST_LOOK_SECONDS
        )

    def _looked(self, exchange: Exchange) -> bool:
        """What it shows is evidence; it changes neither the verdict nor the times."""
        if self._exchange is not None and exchange.chain:
            self._exchange = structs.replace(self._exchange, chain=exchange.chain)
            was, now = self._failure, exchange.failure
            if was and now and was.reason is now.reason is Reason.CERTIFICATE:
                self._failure = now  # The same with its particulars.
        return self._end()

    # --- what comes after an attempt --------------------------------------------------------------------------------

    def _end(self) -> bool:
        failure = self._failure
        self._is_over = True
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

    def wait_seconds(self) -> float | None:
        """How long to wait before the next attempt; None when the check is over."""
        if self._failure is None:
            return None
        self._retries = self._retries or Retries(self._check, self._settings)
        return self._retries.wait_seconds(self._failure, self._status_code)

    def result(self) -> CheckResult:
        failure = self._failure
        verdict, sentence = _verdict(failure, self._check, self._elapsed_ms, self._lost_seconds * 1000)
        return CheckResult(
            target_id=self.target.id,
            revision=self.target.revision,
            verdict=verdict,
            attempts=tuple(self.attempts),
            started_at=self.started_at,
            finished_at=now_ms(),
            scheduled_at=self._origin.scheduled_at,
            enqueued_at=self._origin.enqueued_at,
            by=self._origin.by,
            reason=failure.reason if failure else None,
            sentence=sentence,
            answer=self._answer(),
        )

    def _answer(self) -> AnswerSeen | None:
        exchange, failure = self._exchange, self._failure
        if failure is not None and failure.reason is Reason.INTERNAL:
            return None
        if failure is not None:
            return evidence(self._check, self.hop.request, exchange or Exchange(0.0, {}), self._redirects)
        return summary(self._check, exchange, self._redirects) if exchange else None


@lru_cache(maxsize=4096)
def _place(host: str) -> Place:
    host = host.lower().rstrip(".")
    return str(parse_address(host) or host)


def _verdict(failure: Failure | None, check: Check, elapsed_ms: float, lost_ms: float) -> tuple[Verdict, str | None]:
    """The verdict, and the sentence that says why it is not up. What is slow by the monitor's doing is not degraded."""
    if failure is not None:
        verdict = Verdict.UNKNOWN if failure.reason is Reason.INTERNAL else Verdict.DOWN
        return verdict, failure.sentence
    if check.degraded_ms is not None and elapsed_ms - lost_ms > check.degraded_ms:
        return Verdict.DEGRADED, f"{math.ceil(elapsed_ms):,} ms, slower than {check.degraded_ms:,} ms"
    return Verdict.UP, None
