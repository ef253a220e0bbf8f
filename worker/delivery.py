"""From the outbox to the mail server: claim, send, settle, until nothing is due."""

from __future__ import annotations

import logging
import secrets
import time

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import signals
from shared.endpoint import redact
from shared.monitor import Alert, Report, Status
from shared.settings import Settings
from shared.store import Mail, Store, Watched
from worker.mailer import MailDelayed, Mailer, MailRefused, Sent

REPORT_SIZE = 1000
"""Targets that one report lists at the most."""
_LONGEST_RUN_SECONDS = 60.0
_PATIENCE_SECONDS = 30.0

log = logging.getLogger("emails")


class Delivery:
    """One run of the deliver job.

    Kill it before a mail is claimed: nothing happened. After the claim and before the server's 250: the lease ends
    and the same mail is sent. Between the 250 and :meth:`Outbox.sent`: the same mail is sent once more, with the same
    Message-ID; this window is the only one.
    """

    def __init__(self, store: Store, mailer: Mailer, settings: Settings) -> None:
        self._store = store
        self._mailer = mailer
        self._settings = settings

    def deliver_all(self) -> None:
        """Send mails until nothing is due, one fails, or a minute has gone; the scheduler starts the next run."""
        began = time.monotonic()
        while time.monotonic() - began < _LONGEST_RUN_SECONDS:
            mail = self._store.outbox.claim(secrets.token_hex(8), now=_now())
            if mail is None or not self._deliver(mail):
                return

    def _deliver(self, mail: Mail) -> bool:
        try:
            sent = self._send(mail)
        except MailRefused as error:
            log.error("mail %s with %d alerts was refused for good: %s", mail.id, len(mail.alerts), error)
            self._store.outbox.refused(mail, now=_now(), error=str(error))
            return True
        except MailDelayed as error:
            until = self._store.outbox.delayed(
                mail, now=_now(), error=str(error), may_have_arrived=error.may_have_arrived
            )
            log.warning("mail %s waits until %d: %s", mail.id, until // 1000, error)
            return False
        except Exception as error:
            # A fault of ours (or the job's timeout) leaves the job, but the mail must not be tried without a pause.
            self._store.outbox.delayed(mail, now=_now(), error=type(error).__name__, may_have_arrived=True)
            raise
        self._mark(mail, sent)
        if sent.delayed:
            return False
        log.info("mail %s with %d alerts was sent", mail.id, len(mail.alerts))
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
        outbox = self._store.outbox
        if sent.delayed:
            error = "; ".join(sent.refused.values())
            outbox.partly_sent(mail, now=_now(), recipients=sent.recipients, remaining=sent.delayed, error=error)
        else:
            outbox.sent(mail, now=_now(), recipients=sent.recipients, refused=sent.refused)

    def _send(self, mail: Mail) -> Sent:
        if mail.is_report:
            return self._mailer.send_report(mail.id, self._report(), recipients=mail.recipients)
        return self._mailer.send_alerts(mail.id, mail.alerts, recipients=mail.recipients)

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


def _now() -> int:
    return int(time.time() * 1000)
