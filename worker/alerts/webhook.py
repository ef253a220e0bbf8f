"""Alerts as one signed POST to a URL of the receiver's own, and how a receiver verifies it.

What is tried again, and when, is decided by the jobs; nothing here is repeated.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, LocationValueError, NewConnectionError

from shared import links
from shared.monitor import Alert
from worker.alerts import words

SIGNATURE = "X-Monitor-Signature"
DELIVERY = "X-Monitor-Delivery"
TOLERANCE_SECONDS = 300
# 408, 425 and 429 say "later" in so many words.
_LATER = frozenset({408, 425, 429})

T = TypeVar("T")


# --- what came of it -----------------------------------------------------------------------------------------------


def is_final(code: int, _text: str = "") -> bool:
    """Whether an HTTP answer is about this message and for good: 4xx other than 408, 425 and 429.

    5xx, 3xx, no answer at all (000) and whatever else is not 2xx may pass.
    """
    return 400 <= code <= 499 and code not in _LATER


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a channel did not take a message, in words of ours, because those of libraries and servers spell URLs."""

    answer: str
    """A code of HTTP and words, ``503 Service Unavailable``; 000 stands for no answer."""
    may_have_arrived: bool = False
    """The request may have been written whole, and no answer came."""

    @property
    def is_final(self) -> bool:
        return is_final(int(self.answer[:3]))


SILENCE = Refusal("000 no answer in time", may_have_arrived=True)


def answered(code: int) -> Refusal:
    """An answer that does not say that the message was taken."""
    return Refusal(f"{code} and yet not taken" if 200 <= code <= 299 else words.code(code))


def unanswered(error: Exception) -> Refusal:
    """No answer, as requests tells it: ``000 no connection``."""
    if isinstance(error, requests.exceptions.SSLError):
        return Refusal("000 TLS failure or a certificate that is not trusted")
    if isinstance(error, requests.exceptions.ProxyError):
        return Refusal("000 the proxy does not let it through")
    if isinstance(error, requests.ConnectTimeout) or _is_not_connected(error):
        return Refusal("000 no connection")
    if isinstance(error, requests.Timeout):
        return SILENCE
    if isinstance(error, requests.ConnectionError | HTTPError) and not isinstance(error, LocationValueError):
        return Refusal("000 the connection was lost before the answer", may_have_arrived=True)
    # What is left is found before anything is sent: a URL or a header that cannot be one.
    return Refusal("000 not a request that can be sent")


def _is_not_connected(error: BaseException) -> bool:
    """Whether the name was not found, or nobody took the connection."""
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", cause), NewConnectionError)


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns, or TimeoutError after ``seconds``; it then goes on in its thread, unheard.

    The only limit that holds also for a slow name server, and for a server that drips a byte now and then.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            # It is raised where the result is waited for.
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


# --- what is sent --------------------------------------------------------------------------------------------------


class _Transport(HTTPAdapter):
    """requests below its Session, which would look for proxies and .netrc and read redirects to their end."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        # Beside certifi's authorities those of the machine, or of SSL_CERT_FILE, as for mails.
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **options)


class Webhook:
    """One URL that wants alerts as JSON; nothing is connected before the first."""

    def __init__(self, url: str, secret: str | None, *, timeout_seconds: float, public_url: str | None = None) -> None:
        self._url = url
        self._secret = secret
        self._timeout_seconds = timeout_seconds
        self._public_url = public_url

    def send(self, mail_id: str, alerts: Sequence[Alert]) -> Refusal | None:
        """POST all of ``alerts``; None when the receiver said 2xx.

        Connecting may take the timeout, and so may each read; all of it together twice that.
        """
        now = time.time()
        body = json.dumps(document(mail_id, alerts, now=now, public_url=self._public_url)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "http-monitoring", "Connection": "close"}
        headers[DELIVERY] = mail_id
        if self._secret is not None:
            headers[SIGNATURE] = sign(self._secret, body, now=now)
        try:
            code = within(self._timeout_seconds * 2, lambda: self._post(body, headers))
        except TimeoutError:
            return SILENCE
        except (requests.RequestException, HTTPError) as error:
            return unanswered(error)
        return None if 200 <= code <= 299 else answered(code)

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        request = requests.Request("POST", self._url, data=body, headers=headers).prepare()
        transport = _Transport()
        try:
            # Only the head of the answer is read: it says all, and it has an end.
            with transport.send(request, stream=True, timeout=self._timeout_seconds) as response:
                return response.status_code
        finally:
            transport.close()


def document(mail_id: str, alerts: Sequence[Alert], *, now: float, public_url: str | None) -> dict[str, Any]:
    """The body of a POST.

    ``id``: the same in every repetition of this message; ``sent_at``: when this try began; ``alerts``: a list, in the
    order of the outbox, each with all of these fields, null where nothing is known:

    - ``id``: of the alert; an alert that comes again, in whatever message, has the same
    - ``kind``: down, up, reminder, flapping, calm, or trouble and well, which are about the monitor itself
    - ``status``: down or up, what holds after this alert
    - ``target_id``, ``title``, ``endpoint`` (without its secrets): what it is about; null, or a title, of the monitor
    - ``url``: the page of the target, where a PUBLIC_URL is set
    - ``incident``: the same in all alerts about one
    - ``began_at``: the start of the first check that failed
    - ``detected_at``: the end of the first check that saw it, failed or good
    - ``at``: the end of the check that decided
    - ``reason``: a word of a fixed list, as ``timeout``; ``sentence``: the same for people
    - ``expected``: a string, ``200`` or ``200-299, 404``; ``got``: the status code that came, a number
    - ``elapsed_ms``, ``bottleneck``, ``address``: how long the deciding attempt took, the phase that took most of it
      (dns, connect, tls, wait or transfer), and where it went
    - ``is_up``, ``flips``: of flapping and calm, whether it is up now, and how often it went up or down

    All times are ISO 8601 in UTC, ``2026-11-22T17:01:05.000Z``.
    """
    return {
        "id": mail_id,
        "sent_at": _iso(int(now * 1000)),
        "alerts": [_alert_document(alert, public_url) for alert in alerts],
    }


def _alert_document(alert: Alert, public_url: str | None) -> dict[str, Any]:
    return {
        "id": alert.id,
        "kind": alert.kind,
        "status": status(alert),
        "target_id": alert.target_id or None,
        "title": alert.title,
        "endpoint": alert.endpoint or None,
        "url": links.target_url(public_url, alert.target_id) if public_url and alert.target_id else None,
        "incident": alert.incident,
        "began_at": _iso(alert.began_at),
        "detected_at": None if alert.detected_at is None else _iso(alert.detected_at),
        "at": _iso(alert.at),
        "reason": alert.reason,
        "sentence": alert.sentence,
        "expected": str(alert.expected),
        "got": alert.got,
        "elapsed_ms": alert.elapsed_ms,
        "bottleneck": alert.bottleneck,
        "address": alert.address,
        "is_up": alert.is_up,
        "flips": alert.flips,
    }


def status(alert: Alert) -> Literal["down", "up"]:
    """What holds after the alert."""
    if alert.is_up is not None:
        return "up" if alert.is_up else "down"
    return "up" if alert.kind in ("up", "calm", "well") else "down"


def _iso(at: int) -> str:
    told = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")
    return told.removesuffix("+00:00") + "Z"


# --- signed --------------------------------------------------------------------------------------------------------


def sign(secret: str, body: bytes, *, now: float) -> str:
    """The header X-Monitor-Signature: ``t=<seconds since the epoch>,v1=<HMAC-SHA256 of "<t>.<body>" in hex>``."""
    at = str(int(now))
    return f"t={at},v1={_mac(secret, at, body)}"


def verify(secret: str, header: str, body: bytes, *, now: float, tolerance_seconds: float = TOLERANCE_SECONDS) -> bool:
    """Whether ``body`` comes from whoever knows the secret, and was sent just now. For receivers.

    Give the bytes as they came, before any parsing, the header X-Monitor-Signature (an empty one is a False), and the
    time in seconds since the epoch. Older signatures are False, so that nobody can send a recorded message again;
    within the tolerance X-Monitor-Delivery, which repetitions share, tells what is known already. Of several ``v1`` one
    has to fit, and names other than ``t`` and ``v1`` do not matter, so that there may be more of them one day.
    """
    parts = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    if len(times) != 1 or not re.fullmatch(r"[0-9]{1,15}", times[0]) or abs(now - int(times[0])) > tolerance_seconds:
        return False
    expected = _mac(secret, times[0], body).encode()
    given = [value.encode("utf-8", "replace") for name, _, value in parts if name == "v1"]
    return any(hmac.compare_digest(expected, each) for each in given)


def _mac(secret: str, at: str, body: bytes) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
