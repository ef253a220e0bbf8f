"""What people get when targets break: how soon, how many mails, what is lost when processes die, and whom a mail
server that says nothing keeps waiting.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from statistics import median
from typing import Any

from redis.exceptions import RedisError

from benchmarks.accounts import percentile
from benchmarks.mails import MailServer, Taken, mail_server, tarpit
from benchmarks.processes import kill
from benchmarks.waiting import wait_until
from benchmarks.whole import Monitor, Site

OPS = "ops@example.org"
LEASE_SECONDS = 120
"""How long a mail that nobody works on any more is left alone: the store's lease."""
_SETTINGS = {
    "MAIL_SERVER": "127.0.0.1",
    "MAIL_RECIPIENTS": OPS,
    "MAIL_DEFAULT_SENDER": "monitor@example.org",
    "DEFAULT_HTTP_INTERVAL": "5",
    "DEFAULT_HTTP_TIMEOUT": "3",
    "DEFAULT_HTTP_RETRIES": "0",
}
_TELLS = {"DOWN: ": ("down",), "UP: ": ("up",), "UP again: ": ("down", "up")}
"""What a mail about one incident tells, by the beginning of its subject."""


def _targets(site: Site, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Each with a reader of its own, so that a mail about one never waits for a mail about another."""
    return [
        {"title": f"t{number}", "endpoint": f"{site.url}/{number}", "recipients": [f"t{number}@example.org"], **fields}
        for number in range(count)
    ]


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@dataclass(frozen=True, slots=True)
class _Deed:
    """Something to be done at a moment of a measurement, in seconds since its beginning."""

    at: float
    do: Callable[[], None]


def _play(deeds: Sequence[_Deed], monitor: Monitor) -> None:
    """Do each at its moment, and keep the monitor running meanwhile."""
    began = time.monotonic()
    for deed in sorted(deeds, key=lambda deed: deed.at):
        while (left := began + deed.at - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
            monitor.keep()
        deed.do()


# --- how soon ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds until a server took the mail, from the end of the first check that failed and from the break itself."""

    group_wait: int
    breaks: int
    check_median: float
    check_p99: float
    break_median: float
    break_p99: float


def delay(group_wait: int, breaks: int) -> Delay:
    """Targets that break one by one within half a minute, each checked every five seconds."""
    broken_at: dict[str, float] = {}
    chance = random.Random(1)
    with ExitStack() as stack:
        site, server = stack.enter_context(Site()), stack.enter_context(mail_server())
        settings = {**_SETTINGS, "MAIL_PORT": str(server.port), "ALERT_GROUP_WAIT": str(group_wait)}
        monitor = stack.enter_context(Monitor(**settings))
        monitor.add(_targets(site, breaks))

        def break_one(number: int) -> None:
            broken_at[f"{site.url}/{number}"] = time.time()
            site.broken.add(f"/{number}")

        _play([_Deed(30 * chance.random(), partial(break_one, number)) for number in range(breaks)], monitor)
        wait_until(lambda: len(_incidents_of(server.mails)) == breaks, 60 + group_wait, "a mail of each break")
        incidents = monitor.incidents()
    taken = _first_taken(server.mails)
    from_check = [taken[each["id"]] - _epoch(each["detected_at"]) for each in incidents]
    from_break = [taken[each["id"]] - broken_at[each["endpoint"]] for each in incidents]
    return Delay(
        group_wait,
        len(incidents),
        median(from_check),
        percentile(from_check, 0.99),
        median(from_break),
        percentile(from_break, 0.99),
    )


def _incidents_of(mails: Sequence[Taken]) -> set[str | None]:
    return {mail.incident for mail in mails if mail.subject.startswith("DOWN: ")}


def _first_taken(mails: Sequence[Taken]) -> dict[str | None, float]:
    return {mail.incident: mail.at for mail in reversed(mails)}


# --- how many ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Storm:
    """Mails to one recipient, when all targets went down within a minute and when they came back."""

    targets: int
    down: int
    up: int


def storm(count: int) -> Storm:
    """The site of all targets refuses connections until all is told, and then takes them again; grouped for 10 s."""
    with ExitStack() as stack:
        site, server = stack.enter_context(Site()), stack.enter_context(mail_server())
        settings = {**_SETTINGS, "MAIL_PORT": str(server.port), "DEFAULT_HTTP_INTERVAL": "60"}
        monitor = stack.enter_context(Monitor(**settings))
        monitor.add([{"title": f"t{number}", "endpoint": f"{site.url}/{number}"} for number in range(count)])
        site.refuse()
        down = _told(monitor, server, lambda: monitor.count("down") == count)
        site.take()
        up = _told(monitor, server, lambda: monitor.count("up") == count)
        incidents = monitor.incidents()
    assert len(incidents) == count, f"{len(incidents)} incidents of {count} targets"
    return Storm(count, down, up)


def _told(monitor: Monitor, server: MailServer, condition: Callable[[], bool]) -> int:
    """How many mails one recipient gets until the condition holds and all of it is told."""
    before = len(server.mails)
    wait_until(condition, 120, "each target judged anew", meanwhile=monitor.keep)
    wait_until(monitor.owes_nothing, 360, "all alerts told")
    return sum(OPS in mail.recipients for mail in server.mails[before:])


# --- what is lost --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chaos:
    """What became of every flip while processes were killed."""

    kills: int
    kills_with_mail: int
    """Those of the worker and its horse while a mail was in its hands."""
    horse_kills: int
    """Those of the horse alone, always with a job."""
    restarts: int
    breaks: int
    """Targets that were broken; one that was mended before two checks had seen it has not flipped."""
    flips: int
    lost: int
    """Flips that no mail told."""
    told_twice: int
    """Flips that two mails with different ids told."""
    repeated: int
    """Mails that came again under the same Message-ID: killed between the server's 250 and our note of it."""
    dead: int
    longest_seconds: float
    """From the end of the first check that saw a flip to the server's 250."""


class _Killer:
    """Kills the e-mail worker, and remembers how often it had something in its hands."""

    def __init__(self, monitor: Monitor, chance: random.Random) -> None:
        self._monitor = monitor
        self._chance = chance
        self.kills = self.with_mail = self.horses = 0

    def kill_worker(self) -> None:
        """Every other time soon after it has begun with a job, if it does within a second."""
        if self.kills % 2:
            self._wait_for_horse()
        self.with_mail += bool(self._monitor.children("emails")) and self._is_sending()
        self._monitor.kill("emails")
        self._monitor.keep()
        self.kills += 1

    def kill_horse(self) -> None:
        """Alone, so that its worker learns of it; none where there is no job within a second."""
        self._wait_for_horse()
        for pid in self._monitor.children("emails"):
            kill(pid)
            self.horses += 1

    def _wait_for_horse(self) -> None:
        deadline = time.monotonic() + 1
        while not self._monitor.children("emails") and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.15 * self._chance.random())

    def _is_sending(self) -> bool:
        now_ms = time.time() * 1000
        try:
            # What was claimed a moment ago, not what an earlier victim has left behind.
            return bool(
                self._monitor.redis.zcount("monitor:outbox:sending", now_ms + 1000 * (LEASE_SECONDS - 1), "+inf")
            )
        except RedisError:
            return False


def chaos(kills: int, restarts: int, targets: int) -> Chaos:
    """Every target breaks once and is mended, while the e-mail worker and Valkey are killed at random moments."""
    chance = random.Random(7)
    seconds = max(30.0, 1.5 * kills)
    with ExitStack() as stack:
        site, server = stack.enter_context(Site()), stack.enter_context(mail_server(0.05))
        settings = {**_SETTINGS, "MAIL_PORT": str(server.port), "ALERT_GROUP_WAIT": "1", "FLAP_COUNT": "0"}
        monitor = stack.enter_context(Monitor(**settings))
        monitor.add(_targets(site, targets))
        killer = _Killer(monitor, chance)
        deeds = [_Deed(seconds * chance.random(), killer.kill_worker) for _ in range(kills)]
        deeds += [_Deed(seconds * chance.random(), killer.kill_horse) for _ in range(kills // 2)]
        deeds += [_Deed(seconds * chance.random(), monitor.restart_redis) for _ in range(restarts)]
        for number in range(targets):
            path, at = f"/{number}", (seconds - 20) * chance.random()
            deeds.append(_Deed(at, partial(site.broken.add, path)))
            deeds.append(_Deed(at + 10 + 5 * chance.random(), partial(site.broken.discard, path)))
        _play(deeds, monitor)
        wait_until(lambda: monitor.count("up") == targets, 60, "each target up again", meanwhile=monitor.keep)
        wait_until(monitor.owes_nothing, 2 * LEASE_SECONDS + 60, "all alerts told")
        incidents, dead = monitor.incidents(), monitor.outbox()["dead"]
    return _judged(killer, restarts, targets, incidents, server.mails, dead)


def _judged(
    killer: _Killer, restarts: int, breaks: int, incidents: Sequence[dict[str, Any]], mails: Sequence[Taken], dead: int
) -> Chaos:
    flips = {(each["id"], "down"): _epoch(each["detected_at"]) for each in incidents}
    flips |= {(each["id"], "up"): _epoch(each["closed_at"]) for each in incidents if each["closed_at"]}
    first = {mail.id: mail for mail in reversed(mails)}
    told: Counter[tuple[str | None, str]] = Counter()
    took = []
    for mail in first.values():
        for kind in next((kinds for start, kinds in _TELLS.items() if mail.subject.startswith(start)), ()):
            told[mail.incident, kind] += 1
            if (seen_at := flips.get((str(mail.incident), kind))) is not None:
                took.append(mail.at - seen_at)
    return Chaos(
        kills=killer.kills,
        kills_with_mail=killer.with_mail,
        horse_kills=killer.horses,
        restarts=restarts,
        breaks=breaks,
        flips=len(flips),
        lost=sum(flip not in told for flip in flips),
        told_twice=sum(count - 1 for count in told.values()),
        repeated=len(mails) - len(first),
        dead=dead,
        longest_seconds=max(took, default=0.0),
    )


# --- a server that says nothing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lateness:
    """How long after its turn a check began, in seconds."""

    server: str
    checks: int
    median: float
    p99: float
    longest: float
    undelivered: int
    """Alerts that a try to send them has failed for, at the end."""


def lateness(*, is_silent: bool, seconds: float, targets: int = 300) -> Lateness:
    """Targets at an interval of five seconds, a tenth of which breaks; the mail server answers, or never does."""
    chance = random.Random(3)
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        port = stack.enter_context(tarpit()) if is_silent else stack.enter_context(mail_server()).port
        monitor = stack.enter_context(Monitor(**_SETTINGS, MAIL_PORT=str(port), ALERT_GROUP_WAIT="1"))
        ids = monitor.add(_targets(site, targets))
        began_ms = round(time.time() * 1000)
        deeds = [
            _Deed(seconds / 2 * chance.random(), partial(site.broken.add, f"/{number}"))
            for number in range(0, targets, 10)
        ]
        _play([*deeds, _Deed(seconds, lambda: None)], monitor)
        results = [
            result
            for target_id in ids
            for result in monitor.get(f"/api/v1/targets/{target_id}/results", limit=100)["results"]
        ]
        undelivered = sum(entry["error"] is not None for entry in monitor.outbox()["entries"])
    late = [
        _epoch(result["started_at"]) - _epoch(result["scheduled_at"])
        for result in results
        if result["scheduled_at"] and _epoch(result["scheduled_at"]) * 1000 >= began_ms
    ]
    return Lateness(
        "silent" if is_silent else "well",
        len(late),
        median(late),
        percentile(late, 0.99),
        max(late),
        undelivered,
    )
