"""The outbox: alerts that people are owed, from the flip that wrote them until an SMTP server took them.

An alert waits until no further ones come for the same people, is put into a mail (taken under a lease, with them), and
leaves when the mail was sent. What is in a mail whose fate nobody knows stays together in that mail, so that a
repetition carries the same Message-ID; after a failure that surely delivered nothing the alerts go back to wait and
may be grouped anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson
from redis import Redis

from shared.monitor import Alert
from shared.settings import Settings
from shared.store import keys
from shared.store.scripts import read_script

LEASE_MS = 120_000
"""How long a deliver job may hold a mail; its RQ timeout is shorter."""
MAIL_SIZE = 20_000
"""Alerts in one mail at the most, which lists some and counts the others: an outage of everything is one mail."""
GROUP_WAITS = 12
"""An alert waits for others to share its mail for so many times ALERT_GROUP_WAIT at the most, ..."""
LONGEST_MORE_MS = 120_000
"""... and for so much longer than it would alone, however long that is."""
MANY = 10
"""So many alerts are a storm, which often pauses: they wait for others for twice ALERT_GROUP_WAIT."""
LISTED = 1000
"""Entries of each kind that :meth:`Outbox.entries` returns at the most."""
GIVEN_UP_AFTER_MS = 3 * 86_400_000
LONGEST_WAIT_MS = 15 * 60_000
FIRST_WAIT_MS = 5_000

DELAY_BOUNDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600, 86_400)
"""Seconds; the buckets of how long alerts take."""

_TOLD = read_script("functions/told_field")
OWE = read_script("functions/owe", _TOLD)
"""A Lua function for whoever owes people an alert in the same atomic step as what happened."""
_CLAIM = read_script("outbox_claim", MANY=MANY)
_SETTLE = read_script("outbox_settle", _TOLD, DELAY_BOUNDS=DELAY_BOUNDS)
_REQUEST_REPORT = read_script("outbox_request_report")
_REVIVE = read_script("outbox_revive")

_NOBODY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Mail:
    """What one deliver job has taken, under a lease of two minutes: alerts in order, or one report (then none)."""

    id: str
    entries: tuple[str, ...]
    """The ids in the outbox."""
    alerts: tuple[Alert, ...]
    recipients: tuple[str, ...] | None = None
    """Those who have not had it yet, after a server took it for the others; None: all."""
    audience: tuple[str, ...] = ()
    """Who is told instead of the recipients of the settings; empty: those."""
    tries: int = field(default=0, compare=False)
    """How often it was tried before."""
    newest: int = field(default=0, compare=False)
    """The number of the newest alert in the box when it was claimed."""
    apart: tuple[str, ...] = ()
    """Those who have not had an earlier mail about the same targets yet; this one is sent to them later, alone."""

    @property
    def is_report(self) -> bool:
        return not self.alerts


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How full the outbox is; ``oldest_at`` is when the first that waits is to be sent (ms), None when none waits."""

    waiting: int
    sending: int
    dead: int
    oldest_at: int | None
    failures: int
    failing_since: int | None = None
    """Since when nothing gets through (ms), whether the server says so or the jobs die; None while all is well."""


class Outbox:
    """Claims, settles and counts. Any number of deliver jobs may run at once: an alert is in one mail at a time."""

    def __init__(self, redis: Redis, box: str) -> None:
        """``box`` is the key that all others of this outbox begin with."""
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self.box = box
        self._claim = redis.register_script(_CLAIM)
        self._settle = redis.register_script(_SETTLE)
        self._request_report = redis.register_script(_REQUEST_REPORT)
        self._revive = redis.register_script(_REVIVE)

    def request_report(self, *, now: int) -> None:
        """Owe people a mail with the present state of every target that is down. Idempotent while it waits."""
        self._request_report(keys=[self.box], args=[now])

    def is_due(self, *, now: int) -> bool:
        """Whether a deliver job would find work; asked by the scheduler at every pass, so it is one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrange(self.box, 0, 0, withscores=True)
            pipe.zrange(keys.sending(self.box), 0, 0, withscores=True)
            pipe.hget(keys.hold(self.box), "until")
            waiting, sending, hold = pipe.execute()
        if hold is not None and float(hold) > now:
            return False
        return any(rows and rows[0][1] <= now for rows in (waiting, sending))

    def claim(self, mail_id: str, *, now: int, wait_ms: int = 0) -> Mail | None:
        """Take what is due, as the mail ``mail_id`` or as the earlier mail whose lease ended; None: nothing is due.

        ``wait_ms`` is how long before it was due an alert was written. What is owed to an audience is due as a whole
        when nothing further was added for as long (to :data:`MANY` for twice as long), when its oldest was written
        :data:`GROUP_WAITS` times as long ago or is overdue by :data:`LONGEST_MORE_MS`, or when it fills a mail; until
        then all of it is put off, so that :meth:`is_due` says no. With 0 nothing waits for more.

        A kill after this line costs the lease: the same mail is then claimed again under its own id.
        """
        patience_ms = min((GROUP_WAITS - 1) * wait_ms, LONGEST_MORE_MS)
        claimed = self._claim(keys=[self.box], args=[now, now + LEASE_MS, mail_id, MAIL_SIZE, patience_ms, wait_ms])
        if not claimed:
            return None
        mail, to, audience, tries, newest, apart, *entries = claimed
        rows = list(zip(entries[::2], entries[1::2], strict=True))
        alerts = [Alert.parse(orjson.loads(alert)) for _, alert in rows if alert]
        alerts.sort(key=lambda alert: alert.at)
        recipients = tuple(orjson.loads(to)) if to else None
        return Mail(
            mail.decode(),
            tuple(entry.decode() for entry, _ in rows),
            tuple(alerts),
            recipients,
            parse_audience(audience.decode()),
            int(tries),
            int(newest),
            tuple(sorted(orjson.loads(apart))) if apart else (),
        )

    def sent(
        self, mail: Mail, *, now: int, recipients: Sequence[str], refused: Mapping[str, str], pause_ms: int = 0
    ) -> None:
        """A server took the mail: its alerts leave, and their incidents remember it.

        Those whom it was ``refused`` for good, with the server's answer, have a dead letter each of their own.

        The next mail to the same audience waits for ``pause_ms`` at least, and twice as long each time that one follows
        closely, that is when its oldest alert was due before another such pause was over.
        """
        fate = {"fate": "sent", "at": now, "mail": mail.id, "recipients": list(recipients), "refused": dict(refused)}
        self._put(mail, "sent", now=now, fate=fate, pause_ms=pause_ms, never=refused)

    def refused(self, mail: Mail, *, now: int, error: str) -> None:
        """A server will never take the mail: its alerts become dead letters."""
        self._put(mail, "dead", now=now, error=error, fate={"fate": "refused", "at": now, "error": error})

    def delayed(self, mail: Mail, *, now: int, error: str, may_have_arrived: bool, is_about_mail: bool = False) -> int:
        """The mail did not get through; returns when the next attempt is due (ms).

        Every failure in a row doubles the wait, from 5 s up to 15 min; alerts older than three days become dead
        letters. With ``may_have_arrived`` the same mail is sent again as it is. Others wait with it, because there is
        no server for them either, unless the failure ``is_about_mail`` alone.
        """
        is_kept = may_have_arrived or is_about_mail
        return self._hold(mail, "again" if is_kept else "wait", now=now, error=error, is_about_mail=is_about_mail)

    def partly_sent(
        self,
        mail: Mail,
        *,
        now: int,
        recipients: Sequence[str],
        remaining: Sequence[str],
        error: str,
        never: Mapping[str, str] = _NOBODY,
    ) -> int:
        """The server took the mail for ``recipients`` and asks the others to wait: it is sent to them again, alone.

        ``never`` are those whom it refused it for good, as in :meth:`sent`.
        """
        return self._hold(
            mail,
            "again",
            now=now,
            error=error,
            is_about_mail=True,
            recipients=recipients,
            remaining=remaining,
            never=never,
        )

    def _hold(
        self,
        mail: Mail,
        fate_name: str,
        *,
        now: int,
        error: str,
        is_about_mail: bool,
        recipients: Sequence[str] = (),
        remaining: Sequence[str] = (),
        never: Mapping[str, str] = _NOBODY,
    ) -> int:
        failures = mail.tries if is_about_mail else int(self._redis.hget(keys.hold(self.box), "failures") or 0)
        until: int = now + min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** min(failures, 20))
        fate = {"fate": "delayed", "at": now, "error": error, "next_at": until, "recipients": list(recipients)}
        self._put(
            mail,
            fate_name,
            now=now,
            hold=until,
            error=error,
            fate=fate,
            remaining=remaining,
            is_about_mail=is_about_mail,
            never=never,
        )
        return until

    def _put(
        self,
        mail: Mail,
        fate_name: str,
        *,
        now: int,
        fate: dict[str, Any],
        hold: int = 0,
        error: str = "",
        remaining: Sequence[str] = (),
        pause_ms: int = 0,
        is_about_mail: bool = False,
        never: Mapping[str, str] = _NOBODY,
    ) -> None:
        given_up = {name: value for name, value in fate.items() if name != "next_at"} | {"fate": "given_up"}
        head: list[Any] = [mail.id, fate_name, now, hold, error, now - GIVEN_UP_AFTER_MS]
        to = orjson.dumps(list(remaining)) if remaining else ""
        tail = [orjson.dumps(fate), orjson.dumps(given_up), to, pause_ms]
        tail += [int(is_about_mail), mail.newest]
        tail += [orjson.dumps(list(never)), "; ".join(never.values())] if never else ["", ""]
        delays = {alert.id: _delay_ms(alert, now) for alert in mail.alerts}
        entries = [word for entry in mail.entries for word in (entry, delays.get(entry, ""))]
        self._settle(keys=[self.box], args=[*head, *tail, *entries])

    def revive(self, entry_id: str, *, now: int) -> bool:
        """Send a dead letter again; False when there is none of that id."""
        return bool(self._revive(keys=[self.box], args=[entry_id, now]))

    def counts(self) -> OutboxCounts:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(self.box)
            pipe.zcard(keys.sending(self.box))
            pipe.zcard(keys.dead(self.box))
            pipe.zrange(self.box, 0, 0, withscores=True)
            pipe.zrange(keys.sending(self.box), 0, 0)
            pipe.hmget(keys.hold(self.box), "failures", "since")
            waiting, sending, dead, oldest, [*leased], (failures, since) = pipe.execute()
        failing = [int(since)] if since else []
        for raw in leased:
            owed, tries, to = self._redis.hmget(keys.outbox_entry(self.box, raw.decode()), "since", "tries", "to")
            if owed and int(tries or 0) > 1 and to is None:
                failing.append(int(owed))
        oldest_at = int(oldest[0][1]) if oldest else None
        return OutboxCounts(waiting, sending, dead, oldest_at, int(failures or 0), min(failing, default=None))

    def delays(self) -> tuple[list[tuple[str, int]], int]:
        """How long alerts took to a server: counts up to each bound in seconds, cumulative; and the sum in ms."""
        found = {name.decode(): int(value) for name, value in self._redis.hgetall(keys.ALERT_DELAY).items()}
        counts, so_far = [], 0
        for bound in (*DELAY_BOUNDS, "inf"):
            so_far += found.get(str(bound), 0)
            counts.append(("+Inf" if bound == "inf" else f"{bound:.1f}", so_far))
        return counts, found.get("sum_ms", 0)

    def entries(self) -> list[dict[str, Any]]:
        """What waits, is being sent or was given up, bounded: id, place, tries, error, alert (a document)."""
        places = {"waiting": self.box, "sending": keys.sending(self.box), "dead": keys.dead(self.box)}
        ids = [(place, raw.decode()) for place, key in places.items() for raw in self._redis.zrange(key, 0, LISTED - 1)]
        with self._redis.pipeline(transaction=False) as pipe:
            for _, entry_id in ids:
                pipe.hmget(keys.outbox_entry(self.box, entry_id), "alert", "tries", "error")
            rows = pipe.execute()
        return [
            {
                "id": entry_id,
                "place": place,
                "tries": int(tries or 0),
                "error": error.decode() if error else None,
                "alert": orjson.loads(alert) if alert else None,
            }
            for (place, entry_id), (alert, tries, error) in zip(ids, rows, strict=True)
        ]


def boxes(settings: Settings) -> tuple[str, ...]:
    """The outboxes that an alert goes into: that of the mails always, for they fall back to a folder."""
    has_channels = bool(settings.notify_urls or settings.webhook_url)
    return (keys.OUTBOX, keys.NOTIFICATIONS) if has_channels else (keys.OUTBOX,)


def audience_of(recipients: Sequence[str]) -> str:
    """Those who are told beside the recipients of the settings, as one key; "" for nobody.

    No address holds a line break, but one may hold a comma: ``"Doe, Jane" <jane@example.org>``.
    """
    return "\n".join(sorted(recipients))


def audiences_of(recipients: Sequence[str], settings: Settings) -> str:
    """Whom an alert is owed to by mail: the recipients of the settings, and apart from them its own."""
    own = [audience_of(recipients)] if recipients else []
    return "\x1e".join([""] * bool(settings.mail_recipients or not own) + own)


def parse_audience(audience: str) -> tuple[str, ...]:
    return tuple(filter(None, audience.split("\n")))


def _delay_ms(alert: Alert, now: int) -> int | str:
    """From the end of the first check that saw it until now; "" for what no check saw just now."""
    if alert.kind not in ("down", "up", "flapping"):
        return ""
    return max(0, now - (alert.detected_at or alert.at))
