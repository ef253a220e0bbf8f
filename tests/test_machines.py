"""Pools as they run on machines of their own: resized under load, side by side on one Redis, and gone in mid-batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Event

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job

from shared.queues import CHECKS, Queues
from shared.store import Store, Watched, keys
from shared.store.runs import SIGN_MS
from tests.api_client import client_on
from tests.fakes import put_into, settings_for
from tests.processes import Run, running, short_folder
from tests.sites import Answer, Received, Site
from tests.waiting import eventually

# A machine is a folder and a host name of its own; the name stands in what RQ and the results know of a worker.
POOL = """
import socket, sys
socket.gethostname = lambda: sys.argv[1]
from worker.pool import main
sys.exit(main())
"""


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def work(redis: Redis, valkey_url: str) -> Queues:
    return Queues(redis, settings_for(valkey_url))


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@contextmanager
def process(url: str, *arguments: str) -> Iterator[Run]:
    environment = {"REDIS_URL": url, "MAX_PER_HOST": "100", "SECOND_OPINION": "false"}
    with short_folder() as folder, running(Path(folder), *arguments, environment=environment) as run:
        yield run


@contextmanager
def pools(url: str, store: Store, work: Queues, hosts: str, workers: int) -> Iterator[list[Run]]:
    """A scheduler, and one pool for each letter, all of its workers alive."""
    store.vitals.bear()
    store.vitals.set_queue_settings(workers, 0)
    with process(url, "-m", "worker.scheduler"), pool_on(url, hosts) as runs:
        eventually(lambda: Counter(hosts_of(work)) == dict.fromkeys(hosts, workers))
        yield runs


@contextmanager
def pool_on(url: str, hosts: str) -> Iterator[list[Run]]:
    if not hosts:
        yield []
        return
    with process(url, "-c", POOL, hosts[0]) as run, pool_on(url, hosts[1:]) as others:
        yield [run, *others]


def hosts_of(work: Queues) -> list[str]:
    return [worker.host for worker in work.workers(CHECKS)]


def targets_at(store: Store, site: Site, *paths: str) -> list[Watched]:
    """Targets whose turn in the schedule is two minutes away at least."""
    far = (int(store.vitals.now()) // 5 + 30) % 60
    return put_into(store, far, *map(site.url, paths), retries=0, interval=300, timeout=20)


def enqueue(work: Queues, targets: list[Watched], size: int) -> None:
    ids = [each.target.id for each in targets]
    for start in range(0, len(ids), size):
        work.enqueue_check(ids[start : start + size], at_front=False)


def results(store: Store, targets: list[Watched]) -> int:
    return sum(len(store.recording.history(each.target.id)) for each in targets)


def makers(store: Store, targets: list[Watched]) -> Counter[str]:
    """How many of the newest results each host has made."""
    found = store.targets.load(each.target.id for each in targets)
    return Counter((each.latest or {})["by"].partition("/")[0] for each in found)


def asked(site: Site) -> Counter[str]:
    """How often each target was asked for."""
    return Counter(f"{request.path}?{request.query}" for request in list(site.requests))


def names(name: str, count: int) -> list[str]:
    return [f"/{name}?{number}" for number in range(count)]


# --- the size ------------------------------------------------------------------------------------------------------


def resize(client: FlaskClient, workers: int) -> None:
    assert client.post("/status/queue", json={"worker_thread": workers}).status_code == 200


def test_a_pool_that_grows_to_eight_and_shrinks_again_under_load_loses_and_repeats_no_check(
    redis: Redis, store: Store, work: Queues, valkey_url: str, site: Site
) -> None:
    client = client_on(valkey_url)
    site.routes = {"/load": Answer(200, delay_seconds=0.1)}
    targets = targets_at(store, site, *names("load", 800))
    waiting = iter(targets)
    fed = []

    def workers_under_load() -> int:
        for target in islice(waiting, max(0, 12 - work.waiting(CHECKS))):
            fed.append(target)
            work.enqueue_check([target.target.id])
        count: int = client.get("/status/queue").get_json()["data"]["workers_alive"]
        return count

    with pools(valkey_url, store, work, "a", 1):
        for wanted, jobs in ((8, 30), (1, 40)):
            assert workers_under_load() != wanted
            resize(client, wanted)
            eventually(lambda wanted=wanted: workers_under_load() == wanted)  # type: ignore[misc]
            eventually(lambda jobs=jobs: workers_under_load() and len(fed) >= jobs)  # type: ignore[misc]
            assert work.waiting(CHECKS), "there was something to do all the time"
        eventually(lambda: results(store, fed) >= len(fed))
        eventually(lambda: not work.in_hand())
    assert results(store, fed) == len(fed)
    assert asked(site) == Counter(names("load", len(fed)))
    assert work.seen(CHECKS)[CHECKS].failed == 0


# --- two machines --------------------------------------------------------------------------------------------------


def test_two_machines_share_the_checks_evenly(
    redis: Redis, store: Store, work: Queues, valkey_url: str, site: Site
) -> None:
    site.routes = {"/idle": Answer(200), "/busy": Answer(200, delay_seconds=0.05)}
    targets = targets_at(store, site, *names("idle", 40), *names("busy", 300))
    idle, busy = targets[:40], targets[40:]
    with pools(valkey_url, store, work, "ab", 2):
        # One after the other, while all wait for work; then many at once.
        for each in idle:
            enqueue(work, [each], 1)
            eventually(lambda each=each: results(store, [each]))  # type: ignore[misc]
        enqueue(work, busy, 4)
        eventually(lambda: results(store, busy) == 300)
    for some in (idle, busy):
        shares = makers(store, some)
        assert set(shares) == {"a", "b"}
        # Whoever is faster takes more, and other tests may slow one of them down.
        assert 0.2 < shares["a"] / len(some) < 0.8, shares
    assert asked(site) == Counter([*names("idle", 40), *names("busy", 300)])


def test_what_a_machine_had_in_hand_when_it_vanished_is_checked_again_within_half_a_minute(
    redis: Redis, store: Store, work: Queues, valkey_url: str, site: Site
) -> None:
    is_open = Event()

    def hold(_request: Received) -> Answer:
        is_open.wait(30)
        return Answer(200)

    site.routes = {"/held": hold}
    targets = targets_at(store, site, *names("held", 40))
    with pools(valkey_url, store, work, "ab", 1) as machines:
        enqueue(work, targets, 20)
        eventually(lambda: len(site.requests) == 40, 10)
        host, lost = in_hand_of_one(redis, work)
        # No process of it says goodbye.
        machines["ab".index(host)].kill_all()
        vanished_at = time.monotonic()
        is_open.set()
        eventually(lambda: results(store, targets) == 40, 30)
        assert time.monotonic() - vanished_at < 30
        eventually(lambda: not redis.exists(keys.RUNS))
    times_asked = asked(site)
    assert {
        each.target.id for each, path in zip(targets, names("held", 40), strict=True) if times_asked[path] == 2
    } == lost
    assert sum(times_asked.values()) == 40 + len(lost)
    assert set(makers(store, targets)) == {"ab".replace(host, "")}


def in_hand_of_one(redis: Redis, work: Queues) -> tuple[str, set[str]]:
    """One of the hosts that has targets in hand now, and these."""
    host_of = {worker.name: worker.host for worker in work.workers(CHECKS)}
    held: dict[str, set[str]] = {}
    store = Store(redis)
    for run in store.runs.overdue(now=int(store.vitals.now() * 1000) + SIGN_MS):
        host = host_of[Job.fetch(run, connection=redis).worker_name or ""]
        pieces = [store.runs.held(run, number) for number in range(1, 10)]
        held.setdefault(host, set()).update(*(piece.args[0] for piece in pieces if piece))
    return next(iter(held.items()))
