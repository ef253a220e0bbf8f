"""When a failed attempt is followed by another: urllib3's Retry decides, with the target's numbers. Pure."""

from __future__ import annotations

from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.response import HTTPResponse
from urllib3.util import Retry

from shared.check import Check
from shared.monitor import Reason
from shared.settings import Settings
from worker.probe.failure import Failure

RETRIED = frozenset(
    {Reason.DNS, Reason.REFUSED, Reason.UNREACHABLE, Reason.TIMEOUT, Reason.TLS, Reason.RESET, Reason.PROTOCOL}
)
"""Failures of the connection. A certificate, a forbidden address, a redirect loop or a page that does not say what it
should is the same a second later; a fault of our own is told at once."""


class Retries:
    """What is left of a check's attempts."""

    def __init__(self, check: Check, settings: Settings) -> None:
        self._retry = Retry(
            total=settings.retries(check),
            status_forcelist=settings.error_codes(check),
            allowed_methods=None,
            backoff_factor=settings.backoff_factor(check),
            respect_retry_after_header=False,
        )

    def wait_seconds(self, failure: Failure, status_code: int | None) -> float | None:
        """How long to wait before the next attempt; None when there is none."""
        try:
            if failure.reason in RETRIED:
                self._retry = self._retry.increment(error=HTTPError(failure.reason))
            elif failure.reason is Reason.STATUS and self._retry.is_retry("GET", status_code or 0):
                self._retry = self._retry.increment(response=HTTPResponse(status=status_code or 0))
            else:
                return None
        except MaxRetryError:
            return None
        return self._retry.get_backoff_time()
