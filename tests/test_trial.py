"""Trials, which store nothing, and a run whose own network is down, which blames nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from shared.check import Check
from shared.queues import Queues
from shared.settings import Settings
from shared.state import Status
from shared.store import Store
from tests.fakes import settings_for
from tests.sites import Answer, Site
from worker.checks.batch import Batch
from worker.checks.trial import check_once

DEAD = 9  # the port of the discard service, where nobody listens


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        site.routes["/"] = Answer(200, b"hello")
        yield site


def run(store: Store, settings: Settings, hosts: int) -> dict[Status, int]:
    """Check as many dead hosts, each an address of its own on loopback, in one run."""
    checks = [Check(endpoint=f"http://127.0.1.{n}:{DEAD}/", expected_http_code=200) for n in range(1, hosts + 1)]
    written = store.targets.put(checks, now=int(time.time() * 1000))
    batch = Batch(store, Queues(store.redis, settings), settings, "run")
    batch.add_targets([each.target.id for each in written])
    batch.work()
    return store.targets.count_by_status()


def test_a_trial_leaves_its_result_and_stores_nothing(store: Store, redis: Redis, valkey_url: str, site: Site) -> None:
    trial_id = store.trials.put(Check(endpoint=site.url("/"), expected_http_code=404))
    check_once(trial_id, store, settings_for(valkey_url))
    result = store.trials.result(trial_id)
    assert result is not None
    assert (result["verdict"], result["reason"], result["status_code"]) == ("down", "status", 200)
    assert store.targets.count() == 0
    assert redis.keys("monitor:*") == [f"monitor:trial:{trial_id}:result".encode()]
    assert 0 < redis.ttl(f"monitor:trial:{trial_id}:result") <= 120


def test_a_trial_is_made_once(store: Store, valkey_url: str, site: Site) -> None:
    trial_id = store.trials.put(Check(endpoint=site.url("/")))
    check_once(trial_id, store, settings_for(valkey_url))
    check_once(trial_id, store, settings_for(valkey_url))
    assert site.count("/") == 1


def test_when_no_canary_answers_nobody_is_called_down_and_nobody_is_mailed(store: Store, valkey_url: str) -> None:
    settings = settings_for(valkey_url, default_http_retries=0, canary_urls=(f"http://127.0.2.1:{DEAD}/",))
    assert run(store, settings, 12)[Status.UNKNOWN] == 12
    assert store.outbox.counts().waiting == 0


def test_when_a_canary_answers_the_targets_are_down(store: Store, valkey_url: str, site: Site) -> None:
    settings = settings_for(valkey_url, default_http_retries=0, canary_urls=(site.url("/"),))
    assert run(store, settings, 12)[Status.DOWN] == 12
    assert site.count("/") == 1


def test_without_canaries_the_targets_are_down(store: Store, valkey_url: str) -> None:
    assert run(store, settings_for(valkey_url, default_http_retries=0), 12)[Status.DOWN] == 12
