"""What is held in memory: a target with a day of history in Redis, and two thousand hanging checks in a worker."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.accounts import family, resident_mb
from benchmarks.machine import redis_running
from benchmarks.processes import Processes
from benchmarks.switch import Switch
from benchmarks.waiting import wait_until
from shared.check import Check
from shared.monitor import AnswerSeen, Attempt, CertificateSeen, CheckResult, Reason, Verdict
from shared.queues import CHECK_TARGETS, CHECKS, Queues
from shared.settings import Settings
from shared.store import Defaults, Store, Watched, keys

INTERVAL_SECONDS = 300
TURNS = 86_400 // INTERVAL_SECONDS
_BATCH = 250
_PROCESSES = 2
_FAILURES = 0.01
_JOB = 499
"""Targets of one job: three are fewer than those with which a run takes no further job, so it takes a fourth."""
_JOBS = 4
_OPEN = 1_900
_HOLD_SECONDS = 3.0
_PATIENCE_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=int, default=10_000, metavar="N", help="targets with a day of history")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Both measurements, each with a Valkey of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        redis = _redis_bytes(arguments.targets, Path(folder, "a"))
        print(f"\nRedis, {arguments.targets} targets with {TURNS} results each, 1 in 100 a failure")
        for name, value in redis.items():
            print(f"{name:>24}  {value:,.0f}")
        worker = _worker_megabytes(Path(folder, "b"))
        print(f"\na check worker with {worker['connections']:.0f} transfers under way (MB)")
        for name, value in worker.items():
            print(f"{name:>24}  {value:,.1f}")
    return {"redis": redis, "worker": worker}


# --- Redis ---------------------------------------------------------------------------------------------------------


def _redis_bytes(count: int, folder: Path) -> dict[str, float]:
    """``bytes_a_target``: what Redis has allocated for the targets, their results, sums, evidence and incidents."""
    folder.mkdir()
    with redis_running(folder) as (url, pid), Redis.from_url(url) as client:
        # Gigabytes of the append-only file are not what is measured.
        client.config_set("appendonly", "no")
        settings = _settings(url, folder)
        checks = [
            Check(title=f"Shop {number}", endpoint=f"https://www.shop-{number}.example/health", expected_http_code=200)
            for number in range(count)
        ]
        before = _used(client)
        for at in range(0, count, 1000):
            Store(client).targets.put(checks[at : at + 1000], now=_first_turn())
        bare = _used(client)
        began = time.monotonic()
        share = -(-count // _PROCESSES)
        writers = [
            multiprocessing.get_context("spawn").Process(target=_write_a_day, args=(url, settings, at, share, number))
            for number, at in enumerate(range(0, count, share))
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0, "a writer failed"
        seconds = time.monotonic() - began
        # The same of any number of targets, and much of little.
        events: Any = client.memory_usage(keys.EVENTS, samples=0)
        used = _used(client) - before
        kept = min(len(Store(client).recording.history(each, limit=400)) for each in _some_ids(client))
        return {
            "bytes_a_target": (used - events) / count,
            "bytes_a_target_with_events": used / count,
            "bytes_of_the_event_stream": events,
            "bytes_before_any_check": (bare - before) / count,
            "resident_bytes_a_target": resident_mb(pid) * 1024 * 1024 / count,
            "results_kept": kept,
            "incidents": Store(client).incidents.page(limit=1).total or 0,
            "seconds": seconds,
        }


def _settings(url: str, folder: Path, **others: Any) -> Settings:
    return Settings(_env_file=None, redis_url=url, data_dir=folder, default_http_interval=INTERVAL_SECONDS, **others)


def _used(client: Redis) -> int:
    found: Any = client.info("memory")
    return int(found["used_memory"])


def _some_ids(client: Redis) -> list[str]:
    found: Any = client.zrange(keys.TARGETS, 0, 99)
    return [raw.decode() for raw in found]


def _first_turn() -> int:
    return int(time.time() * 1000) - TURNS * 1000 * INTERVAL_SECONDS


def _write_a_day(url: str, settings: Settings, at: int, count: int, seed: int) -> None:
    """Record a day of results of the targets from the place ``at``, batch for batch as a run of a slot does."""
    chance = random.Random(seed)
    defaults = Defaults.of(settings)
    with Redis.from_url(url) as client:
        store = Store(client)
        found: Any = client.zrange(keys.TARGETS, at, at + count - 1)
        ids = [raw.decode() for raw in found]
        sites = {each: _Site(chance) for each in ids}
        first = _first_turn()
        for turn in range(TURNS):
            now = first + turn * 1000 * INTERVAL_SECONDS
            for start in range(0, len(ids), _BATCH):
                batch = store.targets.load(ids[start : start + _BATCH])
                seen = [(each, sites[each.target.id].result(each, now)) for each in batch]
                assert len(store.recording.record(seen, defaults)) == len(seen)


class _Site:
    """One site on the Internet: what its answers have in common, and how they differ from each other."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._usual = {
            "dns": chance.uniform(1, 20),
            "connect": chance.uniform(5, 90),
            "tls": chance.uniform(10, 120),
            "wait": chance.uniform(20, 400),
            "transfer": chance.uniform(0.2, 20),
        }
        self._address = ".".join(str(chance.randint(1, 250)) for _ in range(4)) + ":443"
        self._certificate = CertificateSeen(
            "CN=www.shop.example", "CN=R11,O=Let's Encrypt,C=US", 1_790_000_000_000, 1_797_000_000_000, "5f" * 32
        )
        self._headers = (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Server", "nginx"),
            ("Cache-Control", "private, no-cache"),
            ("Strict-Transport-Security", "max-age=63072000; includeSubDomains"),
            ("X-Request-Id", "***"),
        )

    def result(self, watched: Watched, now: int) -> CheckResult:
        is_up = self._chance.random() >= _FAILURES
        scheduled_at, started_at = now, now + self._chance.randint(5, 400)
        attempts: tuple[Attempt, ...]
        reason, sentence, body = None, None, None
        if is_up:
            attempts = (self._answered(started_at, 200, None),)
        elif self._chance.random() < 0.5:
            attempts = tuple(self._silent(started_at + 5_300 * number) for number in range(4))
            reason, sentence = Reason.TIMEOUT, "no connection within 5 seconds"
        else:
            attempts = (self._answered(started_at, 502, Reason.STATUS),)
            reason, sentence = Reason.STATUS, "answered 502 where 200 was expected"
            body = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n" * 6
        answer = AnswerSeen((), self._certificate, self._headers, body, 18_230 if is_up else len(body or ""))
        return CheckResult(
            watched.target.id,
            watched.target.revision,
            Verdict.UP if is_up else Verdict.DOWN,
            attempts,
            started_at,
            attempts[-1].started_at + round(attempts[-1].elapsed_ms),
            scheduled_at,
            enqueued_at=scheduled_at + 3,
            by="monitor-checks-1/0f2d8c1b",
            reason=reason,
            sentence=sentence,
            answer=answer if reason is not Reason.TIMEOUT else None,
        )

    def _answered(self, at: int, code: int, reason: Reason | None) -> Attempt:
        phases = {name: usual * self._chance.lognormvariate(0, 0.3) for name, usual in self._usual.items()}
        return Attempt(at, sum(phases.values()), phases, code, reason, address=self._address)

    def _silent(self, at: int) -> Attempt:
        phases = {"dns": self._usual["dns"], "connect": 5_000.0 - self._usual["dns"]}
        return Attempt(at, 5_000.0, phases, None, Reason.TIMEOUT, "connect", self._address)


# --- a worker ------------------------------------------------------------------------------------------------------


def _worker_megabytes(folder: Path) -> dict[str, float]:
    """A worker as the README starts one, whose run takes four jobs of targets that hang for half a minute."""
    folder.mkdir()
    count = _JOB * _JOBS
    with ExitStack() as stack:
        site = stack.enter_context(Switch(count // 10))
        site.hang()
        url, _ = stack.enter_context(redis_running(folder))
        client = stack.enter_context(Redis.from_url(url))
        settings = _settings(url, folder)
        checks = [Check(endpoint=site.url(number), expected_http_code=200, timeout=30) for number in range(count)]
        written = Store(client).targets.put(checks, now=int(time.time() * 1000))
        worker = stack.enter_context(_worker(url, folder))
        wait_until(lambda: client.scard("rq:workers") == 1, _PATIENCE_SECONDS, "a worker")
        idle = resident_mb(worker)
        _push(Queues(client, settings), [each.target.id for each in written])
        wait_until(lambda: site.connections() >= _OPEN, _PATIENCE_SECONDS, f"{_OPEN} open connections")
        until_at = time.monotonic() + _HOLD_SECONDS
        most, connections = 0.0, 0
        while time.monotonic() < until_at:
            connections = max(connections, site.connections())
            most = max(most, *(resident_mb(pid) for pid in family(worker)))
            time.sleep(0.1)
        (horse,) = [pid for pid in family(worker) if pid != worker]
        peak = resident_mb(horse, peak=True)
        return {
            "connections": connections,
            "work_horse_rss_mb": most,
            "work_horse_peak_mb": peak,
            "worker_rss_mb": idle,
        }


@contextmanager
def _worker(url: str, folder: Path) -> Iterator[int]:
    """Its pid; it and its horse are killed in the end, whatever they have in hand."""
    processes = Processes(folder, {"REDIS_URL": url, "DATA_DIR": str(folder)})
    words = ["worker", "--quiet", "-c", "worker.rqconfig", "-w", "worker.pool.SteadyWorker", "checks"]
    pid = processes.start("worker", [sys.executable, "-m", "rq.cli", *words])
    try:
        yield pid
    finally:
        processes.kill("worker")


def _push(queues: Queues, ids: Sequence[str]) -> None:
    for at in range(0, len(ids), _JOB):
        queues.push(CHECKS, CHECK_TARGETS, (list(ids[at : at + _JOB]),), job_id=f"bench-{at}")
