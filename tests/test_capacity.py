"""How many workers the load needs: the rule with known numbers, and what real runs measure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from redis import Redis

from shared.capacity import Load, needed_workers
from shared.queues import Queues
from shared.store import Store, keys
from tests.api_client import client_on
from tests.fakes import put, settings_for
from tests.sites import Answer, Site
from worker.checks.batch import Batch

# 1,000 checks that took 1 ms of CPU and 0.3 s each, in runs that were open all the time.
LOAD = Load(checks=1000, cpu_seconds=1.0, flight_seconds=300.0, run_seconds=50.0, open_seconds=50.0)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/": Answer(200, delay_seconds=0.2)}) as site:
        yield site


@pytest.mark.parametrize(
    ("load", "checks_per_second", "workers"),
    [
        (LOAD, 0.0, 1),
        (LOAD, 100, 1),
        # 700/s x 1 ms keep 0.7 of a worker busy, which is what one is for; beyond it two are.
        (LOAD, 699.9, 1),
        (LOAD, 701, 2),
        (LOAD, 7000, 10),
        # Targets that hang for 20 s: 100/s are 2,000 at once, more than one run holds.
        (Load(1000, 0.2, 20_000.0, 50.0, 50.0), 52, 1),
        (Load(1000, 0.2, 20_000.0, 50.0, 50.0), 100, 2),
        # The same in runs that took further work for a third of their time only.
        (Load(1000, 0.2, 20_000.0, 60.0, 20.0), 100, 6),
        # One that was hardly open, or not at all, does not need infinitely many.
        (Load(1000, 0.2, 20_000.0, 60.0, 0.0), 100, 39),
        (Load(1000, 0.2, 300.0), 100, 1),
    ],
)
def test_as_many_workers_are_needed_as_keep_each_at_seventy_percent(
    load: Load, checks_per_second: float, workers: int
) -> None:
    assert needed_workers(load, checks_per_second=checks_per_second) == workers


def test_nothing_is_said_before_anything_was_measured() -> None:
    assert needed_workers(Load(), checks_per_second=100) is None


def test_the_sums_are_those_of_the_last_minutes_and_expire(redis: Redis) -> None:
    loads = Store(redis).loads
    for minute in (0, 1, 5, 6):
        loads.add(LOAD, now=minute * 60_000 + 59_999)
    assert loads.recent(now=5 * 60_000).checks == 3000
    assert loads.recent(now=6 * 60_000) == Load(3000, 3.0, 900.0, 150.0, 150.0)
    assert loads.recent(now=12 * 60_000) == Load()
    assert 0 < redis.ttl(keys.load(6)) <= 420


def test_the_schedule_says_how_many_checks_come(redis: Redis) -> None:
    store = Store(redis)
    assert store.targets.checks_per_second(300) == 0
    put(store, *(f"http://a.example/{number}" for number in range(30)))
    put(store, *(f"http://b.example/{number}" for number in range(10)), interval=5)
    put(store, "http://c.example/", interval=5, paused=True)
    assert store.targets.checks_per_second(300) == pytest.approx(2.1)
    assert store.targets.checks_per_second(30) == pytest.approx(3.0)


def test_a_run_measures_itself_and_the_queue_status_tells_what_is_needed(
    redis: Redis, valkey_url: str, site: Site
) -> None:
    store, settings, client = Store(redis), settings_for(valkey_url, max_per_host=100), client_on(valkey_url)

    def needed() -> int | None:
        found: int | None = client.get("/status/queue").get_json()["data"]["needed_workers"]
        return found

    assert needed() is None
    assert "monitor_workers_needed" not in client.get("/metrics").text
    targets = put(store, *(site.url(f"/?{number}") for number in range(40)))
    began = time.monotonic()
    run = Batch(store, Queues(redis, settings), settings, "run")
    run.add_targets([each.target.id for each in targets])
    run.work()
    took = time.monotonic() - began
    load = store.loads.recent(now=int(time.time() * 1000))
    assert load.checks == 40
    assert 0.2 * 40 * 0.95 < load.flight_seconds < took * 40
    assert 0.2 < load.run_seconds <= took + 0.001
    assert load.open_seconds == load.run_seconds
    assert 0 < load.cpu_seconds < load.run_seconds
    assert needed() == 1
    assert "\nmonitor_workers_needed 1.0\n" in client.get("/metrics").text
    # More targets than ever one worker could check each second; and no worker is alive that would.
    redis.sadd(keys.BUCKETS, "1:7")
    redis.sadd(keys.bucket(1, 7), *range(50_000))
    wanted = needed()
    assert wanted == needed_workers(load, checks_per_second=50_000 + 40 / 300)
    assert wanted is not None
    assert wanted > 5
    assert re.search(rf"check workers needed\W.*?\b{wanted}\b", client.get("/").text, re.DOTALL)
