"""Alerts to the channels beside mail: what the apprise library speaks to (NOTIFY_URLS), and the webhook.

Who is told, and when it is tried again, is decided by the jobs, as for mails; so are the meanings of Sent, MailRefused
and MailDelayed. A channel's name, ``webhook`` or ``slack-1``, shows no secret: the scheme of its URL, and which one of
that scheme it is.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import requests

from shared import links
from shared.monitor import Alert
from shared.settings import Settings, SettingsError
from worker.alerts import letters, webhook
from worker.alerts.letters import Story
from worker.alerts.mailer import Sent
from worker.alerts.rendering import rendered
from worker.alerts.smtp import SENTENCE_LENGTH, TIMEOUT_SECONDS, MailDelayed, MailRefused
from worker.alerts.webhook import Refusal, Webhook

if TYPE_CHECKING:
    from apprise import AppriseResult, NotifyBase
    from apprise.logger import NotifyLogEntry
    from apprise.result import NotifyResult

WEBHOOK = "webhook"
LINES = 20
"""How many targets one notification names; some services take no more than 2000 characters."""


def check_channels(settings: Settings) -> None:
    """Raise SettingsError for each URL that apprise cannot use, naming its position and its scheme only.

    Ahead of a fork it also does once what every job would pay for: loading apprise and its plugins takes 0.4 s.
    """
    _Services(settings, TIMEOUT_SECONDS)


class Notifier:
    """Sends to all channels of one process; nothing is connected before the first message."""

    def __init__(self, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """``timeout_seconds`` is for the whole exchange with all services together, and the webhook has twice that.

        Raises SettingsError, as :func:`check_channels` does.
        """
        self._settings = settings
        self._services = _Services(settings, timeout_seconds)
        self._webhook = _webhook(settings, timeout_seconds)
        _hush("urllib3.connectionpool")
        _hush("urllib3.connection")

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of all that are configured, the webhook first."""
        return (*([WEBHOOK] if self._webhook else []), *self._services.urls)

    def send_alerts(self, mail_id: str, alerts: Sequence[Alert], *, recipients: Sequence[str] | None = None) -> Sent:
        """Send one message that tells all of ``alerts`` to each of ``recipients``, or else to all channels.

        The webhook, and services that take headers, are told the ``mail_id``. Codes in ``refused`` are HTTP's: 5xx,
        429, 408, 425 and no answer (000) are worth another try, other 4xx are final, and a channel that is no longer
        configured is a 410. Raises MailRefused or MailDelayed when no channel took it.
        """
        told = letters.stories(alerts, window_ms=self._settings.flap_window * 1000)
        if not told:
            raise ValueError("a notification needs an alert to tell")
        wanted = tuple(self.channels if recipients is None else dict.fromkeys(recipients))
        if not wanted:
            raise MailRefused("no NOTIFY_URLS and no WEBHOOK_URL are configured")
        refusals = {name: Refusal("410 no such channel is configured") for name in wanted if name not in self.channels}
        if self._webhook and WEBHOOK in wanted and (refusal := self._webhook.send(mail_id, alerts)):
            refusals[WEBHOOK] = refusal
        names = [name for name in wanted if name in self._services.urls]
        if names:
            title, body = _title(told), self._body(told)
            refusals |= self._services.send(names, mail_id, title, body or title, is_good=_are_all_up(told))
        return _sent(wanted, refusals)

    def _body(self, told: Sequence[Story]) -> str:
        more = len(told) - LINES
        return rendered(
            "notification/body.txt", {"shown": told[:LINES], "more": more, "link": self._link(told)}
        ).strip()

    def _link(self, told: Sequence[Story]) -> str | None:
        url, target_ids = self._settings.public_url, {story.alert.target_id for story in told}
        if url is None:
            return None
        return links.target_url(url, target_ids.pop()) if len(target_ids) == 1 and all(target_ids) else url


def _are_all_up(told: Sequence[Story]) -> bool:
    return all(webhook.status(story.alert) == "up" for story in told)


def _title(told: Sequence[Story]) -> str:
    """The subject that the mail has."""
    if len(told) == 1:
        return rendered("email/alert/subject.txt", {"story": told[0]}).strip()
    return rendered("email/digest/subject.txt", {"digest": letters.digest(told)}).strip()


def _sent(wanted: Sequence[str], refusals: Mapping[str, Refusal]) -> Sent:
    took = tuple(name for name in wanted if name not in refusals)
    if took:
        return Sent(took, {name: refusal.answer for name, refusal in refusals.items()}, webhook.is_final)
    said = "; ".join(f"{name}: {refusal.answer}" for name, refusal in refusals.items())[:SENTENCE_LENGTH]
    if all(refusal.is_final for refusal in refusals.values()):
        raise MailRefused(said)
    raise MailDelayed(said, may_have_arrived=any(refusal.may_have_arrived for refusal in refusals.values()))


def _webhook(settings: Settings, timeout_seconds: float) -> Webhook | None:
    if settings.webhook_url is None:
        return None
    secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
    return Webhook(
        settings.webhook_url.get_secret_value(),
        secret,
        timeout_seconds=timeout_seconds,
        public_url=settings.public_url,
    )


def _hush(name: str) -> None:
    """No line of this library goes to the log: apprise spells whole URLs, and urllib3 those of odd answers."""
    logger = logging.getLogger(name)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


# --- apprise -------------------------------------------------------------------------------------------------------


class _Services:
    """The NOTIFY_URLS by the names of their channels; apprise is imported where there are any, and not before."""

    def __init__(self, settings: Settings, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._public_url = settings.public_url
        self.urls: dict[str, str] = {}
        bad, seen = [], Counter[str]()
        for position, secret in enumerate(settings.notify_urls, start=1):
            url = secret.get_secret_value()
            service = self._service(url)
            if service is None:
                bad.append(f"NOTIFY_URLS: URL {position} ({_scheme(url)}) is not one that apprise can use")
                continue
            # Of https://hooks.slack.com/ it is slack. What services themselves take for their scheme may be "http".
            known = sorted(service.schemas())  # type: ignore[no-untyped-call]  # apprise has no type for it
            scheme = name if (name := _scheme(url).removesuffix("://")) in known else known[0]
            seen[scheme] += 1
            self.urls[f"{scheme}-{seen[scheme]}"] = url
        if bad:
            raise SettingsError("\n".join(bad))

    def send(self, names: Sequence[str], mail_id: str, title: str, body: str, *, is_good: bool) -> dict[str, Refusal]:
        """Send to these channels, all at once. The refusals of those that did not take it."""
        from apprise import Apprise, NotifyFormat, NotifyType

        # Made anew each time: a service that has sent would sleep for up to 5.5 s before its next request.
        services = [service for name in names if (service := self._service(self.urls[name], mail_id))]
        heard: dict[int, list[Refusal]] = defaultdict(list)

        def listen(entry: NotifyLogEntry, service: NotifyBase | None) -> None:
            # Called by the line that logs, so that the exception that apprise swallows there is still at hand.
            if refusal := _overheard(entry.message, sys.exception()):
                heard[id(service)].append(refusal)

        def notify() -> AppriseResult:
            return Apprise(services).notify(
                body,
                title,
                notify_type=NotifyType.SUCCESS if is_good else NotifyType.FAILURE,
                body_format=NotifyFormat.TEXT,
                log_callback=listen,
                log_level=logging.WARNING,
            )

        try:
            # In a thread, because apprise takes every exception for a service's fault, the job's timeout as well.
            results = webhook.within(self._timeout_seconds * 2, notify).results
        except TimeoutError:
            return dict.fromkeys(names, webhook.SILENCE)
        outcomes = zip_longest(names, services, results[: len(names)])
        return {name: _judged(result, heard[id(service)]) for name, service, result in outcomes if not result}

    def _service(self, url: str, mail_id: str | None = None) -> NotifyBase | None:
        """The service of a URL; None where apprise has none for it, or misses a package for it."""
        _hush("apprise")
        from apprise import Apprise, AppriseAsset, OverflowMode

        asset = AppriseAsset(
            app_id="http-monitoring",
            app_desc="HTTP monitoring",
            app_url=self._public_url or "",
            storage_mode="memory",
            pem_autogen=False,
            pgp_autogen=False,
            service_timeout=self._timeout_seconds,
            # A POST that is redirected becomes a GET, which many a page answers with a 200.
            http_redirects=False,
        )
        service = Apprise.instantiate(url, asset=asset)
        if service is None:
            return None
        service.socket_connect_timeout = min(service.socket_connect_timeout, self._timeout_seconds)
        service.socket_read_timeout = min(service.socket_read_timeout, self._timeout_seconds)
        # The outbox tries again, and it wants to know of every failure, whatever the URL says.
        service.retry, service.optional = 0, False
        if service.overflow_mode is OverflowMode.UPSTREAM:
            # What is too long would be refused for good.
            service.overflow_mode = OverflowMode.TRUNCATE
        if mail_id is not None and isinstance(headers := getattr(service, "headers", None), dict):
            headers[webhook.DELIVERY] = mail_id
        return service


def _scheme(url: str) -> str:
    found = re.match(r"[A-Za-z][\w+.-]{0,31}://", url)
    return found[0].lower() if found else "without a scheme"


def _overheard(message: str, error: BaseException | None) -> Refusal | None:
    """What a line of apprise's log tells of a failure: its plugins swallow exceptions, and write ``error=503``."""
    if isinstance(error, requests.RequestException):
        return webhook.unanswered(error)
    if found := re.search(r"\berror=(\d{3})\b", message):
        return webhook.answered(int(found[1]))
    return None


def _judged(result: NotifyResult | None, heard: Sequence[Refusal]) -> Refusal:
    """Why a service failed. Of several things that it said, that which is worth another try decides."""
    from apprise import AppriseResultStatus

    if result is not None and result.status is AppriseResultStatus.TIMEOUT:
        return webhook.SILENCE
    if not heard:
        return Refusal("000 it was not taken, and nothing says why", may_have_arrived=True)
    chief = next((refusal for refusal in heard if not refusal.is_final), heard[0])
    return Refusal(chief.answer, any(refusal.may_have_arrived for refusal in heard))
