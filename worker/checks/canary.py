"""Whose fault it is when most of a batch fails at once: the operator's canaries are asked before anybody is told.

Without ``CANARY_URLS`` nothing is held back. With them, failures of the connection wait until either half of the
batch's hosts have answered (then they are judged as usual) or more than half have failed (then the canaries decide).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from shared.check import Check
from shared.monitor import CheckResult, Reason, Target, Verdict

SMALLEST_BATCH = 10
"""Hosts. Of fewer, more than half may well be down at once."""
_PREFIX = "canary-"
_CONNECTION = {
    Reason.DNS,
    Reason.REFUSED,
    Reason.UNREACHABLE,
    Reason.TIMEOUT,
    Reason.TLS,
    Reason.RESET,
}


def is_canary(target_id: str) -> bool:
    return target_id.startswith(_PREFIX)


def _is_connection_failure(result: CheckResult) -> bool:
    return result.reason in _CONNECTION and result.status_code is None


class Canaries:
    """The doubt of one run. ``hold`` takes results in and gives out those that may be recorded."""

    def __init__(self, urls: Sequence[str], timeout_seconds: float) -> None:
        self._targets = [
            Target(f"{_PREFIX}{number}", Check(endpoint=url, timeout=min(timeout_seconds, 5.0), retries=0), 0, 0)
            for number, url in enumerate(urls)
        ]
        self._host_of: dict[str, str] = {}
        self._answered: set[str] = set()
        self._failed: set[str] = set()
        self._held: list[CheckResult] = []
        self._has_asked = False
        self._unanswered: set[str] = set()
        self._is_network_up: bool | None = None

    def expect(self, target: Target) -> None:
        """A check of this target belongs to the batch."""
        if self._targets:  # Else nobody will ask.
            self._host_of[target.id] = urlsplit(target.check.endpoint).hostname or ""

    def hold(self, results: Iterable[CheckResult]) -> list[CheckResult]:
        """Take results in, the canaries' own too, and give out those about which there is no doubt."""
        if not self._targets:
            return list(results)
        clear: list[CheckResult] = []
        for result in results:
            if is_canary(result.target_id):
                self._learn(result)
            elif _is_connection_failure(result):
                self._failed.add(self._host_of.get(result.target_id, result.target_id))
                self._held.append(result)
            else:
                self._answered.add(self._host_of.get(result.target_id, result.target_id))
                clear.append(result)
        return clear + self._decided()

    def to_ask(self) -> list[Target]:
        """The canaries to check now; each is asked once a run, when more than half of the hosts have failed."""
        if not self._targets or self._has_asked or not self._is_suspicious():
            return []
        self._has_asked = True
        self._unanswered = {target.id for target in self._targets}
        return self._targets

    def release(self) -> list[CheckResult]:
        """What is still held back at the end of the run, judged as usual: the doubt never became a suspicion."""
        held, self._held = self._held, []
        return held

    def _learn(self, result: CheckResult) -> None:
        # Any answer at all, an error page too, shows that our network works; a canary that was not asked shows nothing
        # and must not turn everything unknown.
        if not _is_connection_failure(result) and result.reason is not Reason.INTERNAL:
            self._is_network_up = True
        self._unanswered.discard(result.target_id)
        if not self._unanswered and self._is_network_up is None:
            self._is_network_up = False

    def _is_suspicious(self) -> bool:
        hosts = set(self._host_of.values())
        return len(hosts) >= SMALLEST_BATCH and len(self._failed - self._answered) * 2 > len(hosts)

    def _decided(self) -> list[CheckResult]:
        hosts = set(self._host_of.values())
        if self._is_network_up is False:
            return [_as_unknown(result) for result in self.release()]
        if self._is_network_up or len(hosts) < SMALLEST_BATCH or len(self._answered) * 2 >= len(hosts):
            return self.release()
        return []


def _as_unknown(result: CheckResult) -> CheckResult:
    return replace(
        result,
        verdict=Verdict.UNKNOWN,
        reason=Reason.INTERNAL,
        sentence="the monitor's own network is down: most targets failed at once, and no canary answered",
    )
