"""How the monitor stands a hundred thousand targets: the scheduler, the API, the page, a start, and the snapshot."""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from api import create_app
from benchmarks.accounts import Meter, percentile
from benchmarks.results import Listener, lateness
from benchmarks.switch import Switch
from benchmarks.waiting import wait_until
from benchmarks.whole import Monitor
from shared.settings import Settings
from shared.store import keys

_POSTED_AT_ONCE = 1000
_LEASE = "snapshot-file"
_LONGEST_START_SECONDS = 120.0
ADDRESSES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=int, default=100_000, metavar="N", help="the larger number (100,000)")
    parser.add_argument("--few", type=int, default=100, metavar="N", help="the smaller number (100)")
    parser.add_argument(
        "--seconds", type=float, default=40.0, metavar="S", help="for the scheduler, and snapshots (40)"
    )
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="of each kind (200)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    found: dict[str, object] = {}
    with Switch(ADDRESSES) as site:
        for count in (arguments.few, arguments.targets):
            with Monitor(DEFAULT_HTTP_INTERVAL="300") as monitor:
                seed(monitor, site, count)
                found[str(count)] = _measure(monitor, site, count, arguments)
    return found


def seed(monitor: Monitor, site: Switch, count: int) -> None:
    """Targets on the addresses of the site, posted a thousand at a time; returns when each has its first result."""
    with create_app(_settings(monitor), monitor.redis).test_client() as client:
        for start in range(0, count, _POSTED_AT_ONCE):
            numbers = range(start, min(start + _POSTED_AT_ONCE, count))
            targets = [{"title": f"target {number}", "endpoint": site.url(number)} for number in numbers]
            answer = client.post("/status", json={"targets": targets})
            assert answer.status_code == 201, answer.text
    # Asked of Redis: the web process answers 503 where the machine is busy with the first checks of so many.
    wait_until(
        lambda: monitor.redis.zcard(keys.status("up")) == count,
        60 + count / 100,
        "a good result of each target",
        meanwhile=monitor.keep,
    )


def _settings(monitor: Monitor) -> Settings:
    return Settings(_env_file=None, redis_url=monitor.redis_url)


def _measure(monitor: Monitor, site: Switch, count: int, arguments: argparse.Namespace) -> dict[str, object]:
    print(f"\n{count} targets", flush=True)
    meter = Meter({"scheduler": monitor.pids["scheduler"]})
    time.sleep(arguments.seconds)
    scheduler = {"cpu_ms_a_second": 10 * meter.percent()["scheduler"]}
    _print(scheduler)
    snapshots = _snapshots(monitor, arguments.seconds)
    _print(snapshots)
    answers = _answers(monitor, count, arguments.requests)
    print(f"{'':56}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}")
    for path, (middle, high, longest) in answers.items():
        print(f"{path[:56]:56}{middle:9.1f}{high:9.1f}{longest:9.1f}", flush=True)
    posting = {"post_of_1000_seconds": _post(monitor, site, count)}
    _print(posting)
    start = _start_anew(monitor)
    _print(start)
    return {"scheduler": scheduler, "snapshots": snapshots, "answers": answers, **posting, "start": start}


def _print(row: dict[str, float]) -> None:
    print("   ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)


# --- the API -------------------------------------------------------------------------------------------------------


def _answers(monitor: Monitor, count: int, requests: int) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of the web process's answers, by path: the middle, the 95th percentile and the longest."""
    deep = _cursor(monitor, 9 * count // 10)
    half = _cursor(monitor, count // 2)
    last = monitor.get("/api/v1/targets", limit=1, cursor=deep)["targets"][0]
    paths = (
        "/status",
        "/status?limit=10",
        f"/status?limit=100&cursor={deep}",
        "/status?status=up",
        "/status?status=down&limit=100" if monitor.count("down") else "/status?status=up&limit=10",
        "/status?title=target%201",
        f"/status?endpoint={last['endpoint']}",
        "/api/v1/targets",
        "/api/v1/targets?limit=10",
        f"/api/v1/targets?limit=100&cursor={half}",
        f"/api/v1/targets?limit=100&cursor={deep}",
        f"/api/v1/targets?status=up&cursor={deep}",
        "/api/v1/targets?status=down",
        "/api/v1/targets?title=target%201",
        f"/api/v1/targets/{last['id']}",
        f"/api/v1/targets/{last['id']}/results",
        "/api/v1/incidents",
        "/api/v1/outbox",
        "/status/queue",
        "/",
        "/?status=up",
        f"/?cursor={deep}",
        f"/targets/{last['id']}",
        "/incidents",
        "/readyz",
        "/metrics",
    )
    return {path: _timed(monitor, path, requests) for path in paths}


def _cursor(monitor: Monitor, order: int) -> str:
    """The cursor behind the target of that place, found as a client finds it."""
    cursor = monitor.get("/api/v1/targets", limit=1)["next_cursor"]
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text, left = "", max(order, int(cursor[1:], 36))
    while left:
        left, digit = divmod(left, 36)
        text = digits[digit] + text
    return f"c{text}"


def _timed(monitor: Monitor, path: str, requests: int) -> tuple[float, float, float]:
    connection = http.client.HTTPConnection(urlsplit(monitor.url).netloc, timeout=30)
    took = []
    for _ in range(requests):
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        took.append(1000 * (time.perf_counter() - began))
        # A filter that fits nothing is 404 at the door of old.
        assert answer.status in (200, 404), f"{path}: {answer.status}"
    connection.close()
    return percentile(took, 0.5), percentile(took, 0.95), max(took)


def _post(monitor: Monitor, site: Switch, count: int) -> float:
    """Seconds that the web process takes for a thousand new targets."""
    connection = http.client.HTTPConnection(urlsplit(monitor.url).netloc, timeout=30)
    numbers = range(count, count + _POSTED_AT_ONCE)
    body = json.dumps({"targets": [{"title": f"target {each}", "endpoint": site.url(each)} for each in numbers]})
    began = time.perf_counter()
    connection.request("POST", "/status", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - began
    assert answer.status == 201, answer.status
    connection.close()
    return took


# --- the snapshot --------------------------------------------------------------------------------------------------


def _snapshots(monitor: Monitor, seconds: float) -> dict[str, float]:
    """Checks and Valkey while a snapshot is being written, at each of its turns, and in between."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    pinging = spawn.Process(target=_ping, args=(monitor.redis_url, seconds, theirs))
    meter = Meter({"housekeeping": monitor.pids["housekeeping"]})
    pinging.start()
    with Listener(monitor.redis) as listener:
        while pinging.is_alive() and not mine.poll(1):
            monitor.redis.incr(keys.CHANGES)  # So that each turn has something to write.
        stalls, windows = mine.recv()
    pinging.join()
    during = [each for each in listener.results if _is_in(each.started_at / 1000, windows)]
    between = [each for each in listener.results if not _is_in(each.started_at / 1000, windows)]
    return {
        "snapshots": len(windows),
        "snapshot_seconds": max((end - begin for begin, end in windows), default=0.0),
        "housekeeping_cpu_percent": meter.percent()["housekeeping"],
        "valkey_stall_ms_during": 1000 * max(stalls[True], default=0.0),
        "valkey_stall_ms_between": 1000 * max(stalls[False], default=0.0),
        "valkey_ping_p99_ms_during": 1000 * percentile(stalls[True], 0.99),
        "valkey_ping_p99_ms_between": 1000 * percentile(stalls[False], 0.99),
        **{f"during_{name}": value for name, value in lateness(during).items()},
        **{f"between_{name}": value for name, value in lateness(between).items()},
    }


def _is_in(moment: float, windows: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= moment <= end for begin, end in windows)


def _ping(url: str, seconds: float, pipe: Any) -> None:
    """Ask Valkey all the time whether a snapshot is being written; how long each answer took, and when one was."""
    stalls: dict[bool, list[float]] = {True: [], False: []}
    windows: list[tuple[float, float]] = []
    began: float | None = None
    with Redis.from_url(url) as client:
        until_at = time.monotonic() + seconds
        while time.monotonic() < until_at:
            asked = time.perf_counter()
            is_writing = bool(client.exists(keys.lease(_LEASE)))
            stalls[is_writing].append(time.perf_counter() - asked)
            if is_writing and began is None:
                began = time.time()
            elif not is_writing and began is not None:
                windows.append((began, time.time()))
                began = None
            time.sleep(0.002)
    pipe.send((stalls, windows))


# --- a start -------------------------------------------------------------------------------------------------------


def _start_anew(monitor: Monitor) -> dict[str, float]:
    """Seconds from the start of the first process beside an empty Valkey, until all is as it was."""
    total = monitor.get("/api/v1/targets", limit=1)["total"]
    wait_until(lambda: _is_saved(monitor, total), 3 * _LONGEST_START_SECONDS, "all targets in the snapshot")
    began = monitor.start_anew()
    found = {}
    conditions: dict[str, Callable[[], bool]] = {
        "ready_seconds": monitor.is_ready,
        "all_targets_seconds": lambda: monitor.redis.zcard(keys.TARGETS) == total,
    }
    while conditions:
        for name in [name for name, holds in conditions.items() if holds()]:
            found[name] = time.monotonic() - began
            del conditions[name]
        if time.monotonic() - began > _LONGEST_START_SECONDS:
            raise TimeoutError(f"not within {_LONGEST_START_SECONDS:g} s: {', '.join(conditions)}")
        time.sleep(0.05)
    return found


def _is_saved(monitor: Monitor, total: int) -> bool:
    """Whether the file holds all targets; it is looked at as bytes, one target a line."""
    monitor.keep()
    try:
        return monitor.snapshot_path.read_bytes().count(b'\n{"id"') == total
    except FileNotFoundError:
        return False
