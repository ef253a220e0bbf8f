"""A network that goes dark under every target at once: whether each is still judged in time, and who is told."""

from __future__ import annotations

import argparse
import re
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

from redis import Redis

from benchmarks.accounts import Meter, percentile
from benchmarks.mails import MailServer, mail_server
from benchmarks.results import Listener, Seen
from benchmarks.switch import Switch
from benchmarks.waiting import wait_until
from benchmarks.whole import Monitor

OPS = "ops@example.org"
_QUEUE = "rq:queue:checks"
_ADDED_SECONDS = 300.0
_HEARD_AGAIN_SECONDS = 360.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=int, default=10_000, metavar="N", help="targets (10,000)")
    parser.add_argument("--interval", type=int, default=60, metavar="S", help="seconds between two checks (60)")
    parser.add_argument("--turns", type=int, default=4, metavar="N", help="intervals that the outage lasts (4)")
    parser.add_argument("--per-host", type=int, default=10, metavar="N", help="targets of one address (10)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """All answer, all hang, all answer again, with the defaults of all settings but the interval and the mails."""
    count, interval = arguments.targets, arguments.interval
    with ExitStack() as stack:
        site = stack.enter_context(Switch(max(1, count // arguments.per_host)))
        server = stack.enter_context(mail_server())
        monitor = stack.enter_context(
            Monitor(
                MAIL_SERVER="127.0.0.1",
                MAIL_PORT=str(server.port),
                MAIL_RECIPIENTS=OPS,
                MAIL_DEFAULT_SENDER="monitor@example.org",
                DEFAULT_HTTP_INTERVAL=str(interval),
            )
        )
        monitor.add([{"endpoint": site.url(number)} for number in range(count)], _ADDED_SECONDS)
        listener = stack.enter_context(Listener(monitor.redis))
        before = _Phase("all answer", monitor, server, listener)
        before.last(interval)
        site.hang()
        dark = _Phase("all hang", monitor, server, listener)
        dark.last(arguments.turns * interval, changed=lambda: monitor.count("down") == count, sample=site.connections)
        site.answer()
        light = _Phase("all answer again", monitor, server, listener)
        light.last(2 * interval, changed=lambda: monitor.count("up") == count)
        wait_until(monitor.owes_nothing, _HEARD_AGAIN_SECONDS, "all alerts told")
        phases = [before.row(interval), dark.row(interval), light.row(interval)]
        mails = [(mail.at, mail.subject) for mail in server.mails if OPS in mail.recipients]
    for phase in phases:
        print("\n" + "\n".join(f"{name:>22}  {value}" for name, value in phase.items()))
    began = dark.began
    print("\nmails to one recipient, seconds after the outage began")
    for at, subject in mails:
        print(f"{at - began:10.1f}  {subject}")
    return {"targets": count, "phases": phases, "mails": [[at - began, subject] for at, subject in mails]}


class _Phase:
    """A part of the measurement: what the queue, the processes and the results were like while it lasted."""

    def __init__(self, name: str, monitor: Monitor, server: MailServer, listener: Listener) -> None:
        self.name = name
        self.began = time.time()
        self._monitor = monitor
        self._server = server
        self._listener = listener
        self._meter = Meter(monitor.pids)
        self._results_before = len(listener.results)
        self._mails_before = len(server.mails)
        self._queue: list[int] = []
        self._open: list[int] = []
        self._changed_after: float | None = None
        self._cpu: dict[str, float] = {}

    def last(
        self, seconds: float, changed: Callable[[], bool] = lambda: False, sample: Callable[[], int] = lambda: 0
    ) -> None:
        """Look each second; remember when it ``changed`` first, and what ``sample`` was."""
        redis: Redis = self._monitor.redis
        while time.time() - self.began < seconds:
            time.sleep(1)
            self._monitor.keep()
            length = redis.llen(_QUEUE)
            assert isinstance(length, int)
            self._queue.append(length)
            self._open.append(sample())
            if self._changed_after is None and changed():
                self._changed_after = time.time() - self.began
        self._cpu = self._meter.percent()
        self._seconds = time.time() - self.began

    def row(self, interval: int) -> dict[str, object]:
        end = self.began + self._seconds
        own = [each for each in self._listener.results if self.began <= each.heard_at / 1000 < end]
        turns = [each for each in own if each.scheduled_at is not None]
        judged = [(each.heard_at - (each.scheduled_at or 0)) / 1000 for each in turns]
        late = [(each.started_at - (each.scheduled_at or 0)) / 1000 for each in turns]
        gaps = _gaps(own)
        third = max(1, len(self._queue) // 3)
        return {
            "phase": self.name,
            "seconds": round(self._seconds),
            "all_changed_after_s": self._changed_after and round(self._changed_after, 1),
            "results": len(own),
            "of_them_verdicts": _counted(own),
            "turn_to_start_p50_s": round(percentile(late, 0.5), 2),
            "turn_to_start_max_s": round(max(late, default=0), 2),
            "turn_to_verdict_p50_s": round(percentile(judged, 0.5), 2),
            "turn_to_verdict_max_s": round(max(judged, default=0), 2),
            "verdicts_after_interval": sum(each > interval for each in judged),
            "gap_of_turns_p50_s": round(percentile(gaps, 0.5), 2),
            "gap_of_turns_max_s": round(max(gaps, default=0), 2),
            "queue_mean_first_third": round(sum(self._queue[:third]) / third, 1),
            "queue_mean_last_third": round(sum(self._queue[-third:]) / third, 1),
            "queue_max": max(self._queue, default=0),
            "queue_end": self._queue[-1] if self._queue else 0,
            "connections_max": max(self._open, default=0),
            "cpu_percent_of_a_core": {name: round(value, 1) for name, value in self._cpu.items()},
            "cpu_seconds_a_minute": round(sum(self._cpu.values()) * 0.6, 1),
        }


def _counted(results: list[Seen]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for each in results:
        # Without numbers, which differ from result to result.
        why = re.sub(r"\d+(\.\d+)?", "N", each.sentence or "")
        found[f"{each.verdict}: {why}" if why else each.verdict] += 1
    return dict(found)


def _gaps(results: list[Seen]) -> list[float]:
    """Seconds between two verdicts that a target's own turns brought, for every two that follow each other."""
    heard: dict[str, list[int]] = defaultdict(list)
    for each in results:
        if each.scheduled_at is not None:
            heard[each.target].append(each.heard_at)
    return [(after - before) / 1000 for moments in heard.values() for before, after in pairwise(moments)]
