"""From the outbox to the mail server: claim, send, settle, until nothing is due."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import signals
from shared.endpoint import redact
from shared.monitor import Alert, Report
from shared.settings import Settings
from shared.state import Status
from shared.store import Mail, Outbox, Store, Watched
from worker.alerts.mailer import MailDelayed, Mailer, MailRefused, Sent
from worker.alerts.words import counted

REPORT_SIZE = 1000
"""Targets that one report lists at the most."""
_LONGEST_RUN_SECONDS = 60.0
_PATIENCE_SECONDS = 30.0
_EARLIER_FIRST = "425 an earlier mail has to arrive first"

log = logging.getLogger("emails")


class Courier(Protocol):
    """Whoever brings alerts to people; raises MailRefused or MailDelayed."""

    @property
    def channels(self) -> Sequence[str]:
        """Whom it brings them to where nobody is named."""

    def send_alerts(self, mail_id: str, alerts: Sequence[Alert], *, recipients: Sequence[str] | None) -> Sent: ...


class Delivery:
    """One run of a deliver job: from one outbox to one courier.

    Kill it before a mail is claimed: nothing happened. After the claim and before the server's 250: the lease ends
    and the same mail is sent. Between the 250 and :meth:`Outbox.sent`: the same mail is sent once more, with the same
    Message-ID; this window is the only one.
    """

    def __init__(self, store: Store, outbox: Outbox, courier: Courier, settings: Settings) -> None:
        self._store = store
        self._outbox = outbox
        self._courier = courier
        self._settings = settings
        self._wait_ms = int(1000 * settings.alert_group_wait)

    def deliver_all(self) -> None:
        """Send mails until nothing is due, the server fails, or a minute is over; the scheduler starts the next run."""
        began = time.monotonic()
        while time.monotonic() - began < _LONGEST_RUN_SECONDS:
            mail = self._outbox.claim(secrets.token_hex(8), now=_now(), wait_ms=self._wait_ms)
            if mail is None or not self._deliver(mail):
                return

    def _deliver(self, mail: Mail) -> bool:
        try:
            sent = self._send(mail)
        except MailRefused as error:
            log.error("mail %s with %s was refused for good: %s", mail.id, _alerts(mail), error)
            self._outbox.refused(mail, now=_now(), error=str(error))
            return True
        except MailDelayed as error:
            until = self._outbox.delayed(
                mail,
                now=_now(),
                error=str(error),
                may_have_arrived=error.may_have_arrived,
                is_about_mail=error.is_about_mail,
            )
            log.warning("mail %s waits for %d s: %s", mail.id, (until - _now()) // 1000, error)
            return error.is_about_mail
        except Exception as error:
            # A fault of ours (or the job's timeout) leaves the job, but the mail must not be tried without a pause.
            self._outbox.delayed(mail, now=_now(), error=type(error).__name__, may_have_arrived=True)
            raise
        self._mark(mail, sent)
        if sent.delayed:
            return True
        log.info("mail %s with %s was sent", mail.id, _alerts(mail))
        alert_ids = [alert.id for alert in mail.alerts]
        signals.alert_mailed.send(self, alert_ids=alert_ids, mail_id=mail.id)
        self._store.events.publish([("alert_mailed", None, {"alert_ids": alert_ids, "mail_id": mail.id})])
        return True

    def _mark(self, mail: Mail, sent: Sent) -> None:
        """Every second that passes before the mark is a second in which a kill means a second mail: try hard."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._settle(mail, sent)
            except (RedisConnectionError, RedisTimeoutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def _settle(self, mail: Mail, sent: Sent) -> None:
        never = {who: answer for who, answer in sent.refused.items() if who not in sent.delayed}
        for who, answer in never.items():
            log.error("mail %s with %s was refused for good by %s: %s", mail.id, _alerts(mail), who, answer)
        if sent.delayed:
            self._outbox.partly_sent(
                mail,
                now=_now(),
                recipients=sent.recipients,
                remaining=sent.delayed,
                error="; ".join(sent.refused[who] for who in sent.delayed),
                never=never,
            )
        else:
            pause_ms = 0 if mail.is_report else 2 * self._wait_ms
            self._outbox.sent(mail, now=_now(), recipients=sent.recipients, refused=never, pause_ms=pause_ms)

    def _send(self, mail: Mail) -> Sent:
        """To all whom it is for but those who have to have an earlier mail first: to them it is delayed."""
        recipients = mail.recipients or mail.audience or None
        if not mail.apart:
            return self._send_to(mail, recipients)
        everybody = recipients or self._courier.channels
        apart = [who for who in everybody if who in mail.apart]
        others = [who for who in everybody if who not in mail.apart]
        sent = self._send_to(mail, others) if others else Sent(())
        return replace(sent, refused={**sent.refused, **dict.fromkeys(apart, _EARLIER_FIRST)})

    def _send_to(self, mail: Mail, recipients: Sequence[str] | None) -> Sent:
        return self._courier.send_alerts(mail.id, mail.alerts, recipients=recipients)


class MailDelivery(Delivery):
    """Mails: they go to the recipients of the settings, or to those of the alerts' targets, and there are reports."""

    def __init__(self, store: Store, mailer: Mailer, settings: Settings) -> None:
        super().__init__(store, store.outbox, mailer, settings)
        self._mailer = mailer

    def _send_to(self, mail: Mail, recipients: Sequence[str] | None) -> Sent:
        if mail.is_report:
            return self._mailer.send_report(mail.id, self._report(), recipients=recipients)
        return super()._send_to(mail, recipients)

    def _report(self) -> Report:
        """The present state of every target that is down, longest first."""
        targets = self._store.targets
        down = [self._as_alert(watched) for watched in targets.page(status=Status.DOWN, limit=REPORT_SIZE)]
        down.sort(key=lambda alert: alert.began_at)
        return Report(
            at=_now(),
            targets=targets.count(),
            down=tuple(down),
            down_in_all=targets.count_by_status()[Status.DOWN],
        )

    def _as_alert(self, watched: Watched) -> Alert:
        target, state, latest = watched.target, watched.state, watched.latest or {}
        return Alert(
            id=f"{target.id}-{state.flips}",
            kind="down",
            target_id=target.id,
            title=target.check.title,
            endpoint=redact(target.check.endpoint),
            at=latest.get("finished_at", state.checked_at),
            began_at=state.down_at or state.since,
            expected=self._settings.expectation(target.check),
            got=latest.get("status_code"),
            reason=latest.get("reason"),
            sentence=latest.get("sentence"),
            incident=state.incident,
            elapsed_ms=latest.get("elapsed_ms"),
            bottleneck=latest.get("bottleneck"),
            phases=latest.get("phases", {}),
            attempts=tuple(latest.get("attempts", ())),
            address=latest.get("address"),
        )


def _alerts(mail: Mail) -> str:
    return "the report" if mail.is_report else counted(len(mail.alerts), "alert")


def _now() -> int:
    return int(time.time() * 1000)
