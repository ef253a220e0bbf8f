"""Second opinions: a first failure is no alarm, and what becomes of the check that is to say so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import orjson
import pytest
from redis import Redis
from rq.job import Job

from shared.monitor import Verdict
from shared.queues import BATCH_SIZE, CHECK_AGAIN, CHECKS, Queues
from shared.settings import Settings
from shared.state import Status
from shared.store import Defaults, Store, Watched, keys
from tests.api_client import app_on
from tests.fakes import Killed, Wire, everywhere, incident_fields, put, result, settings_for, settle
from tests.sites import Answer, Site
from tests.waiting import eventually
from worker.checks.batch import Batch
from worker.scheduler import SlotScheduler

BAD, GOOD = Answer(503), Answer(200)


@pytest.fixture(autouse=True)
def no_run_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run asks for is left in the queue, where no worker waits for it."""
    monkeypatch.setattr("worker.checks.batch.TAKE_MORE_SECONDS", 0.0)


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        site.routes["/"] = BAD
        yield site


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return settings_for(valkey_url, second_opinion=True, alert_group_wait=0, max_per_host=1000, default_http_retries=0)


def check(redis: Redis, settings: Settings, *targets: Watched, by: str = "first") -> None:
    """One check of each by a worker of that name."""
    batch = Batch(Store(redis), Queues(redis, settings), settings, f"run-of-{by}", by=by)
    batch.add_targets([each.target.id for each in targets])
    batch.work()


def give_opinions(redis: Redis, settings: Settings, *, by: str = "second") -> int:
    """A worker of that name does the jobs that wait for opinions, and those that come of them; how many."""
    queues, done = Queues(redis, settings), 0
    while (taken := queues.take_waiting_check("run", 1)) is not None:
        assert taken.function == CHECK_AGAIN
        done += 1
        assert done < 10, "opinions about opinions"
        batch = Batch(Store(redis), queues, settings, f"run-{done}-of-{by}", by=by)
        batch.add_opinions(*taken.args, enqueued_at=taken.enqueued_at)
        batch.work()
    return done


def waiting(redis: Redis) -> list[tuple[str, list[str]]]:
    """The function and the targets of each check job that waits, in order."""
    ids: list[bytes] = redis.lrange("rq:queue:checks", 0, -1)  # type: ignore[assignment]
    jobs = [Job.fetch(raw.decode(), connection=redis) for raw in ids]
    return [(str(job.func_name), list(job.args[0])) for job in jobs]


def status(store: Store, watched: Watched) -> Status:
    (now,) = store.targets.load([watched.target.id])
    return now.state.status


def told(store: Store) -> list[str]:
    return [entry["alert"]["kind"] for entry in store.outbox.entries()]


# --- one failure ---------------------------------------------------------------------------------------------------


def test_a_first_failure_asks_for_an_opinion_before_all_else_and_changes_nothing(
    redis: Redis, store: Store, settings: Settings, site: Site
) -> None:
    (watched,) = put(store, site.url("/"), retries=2, backoff_factor=0)
    Queues(redis, settings).enqueue_check(["somebody-else"], at_front=False)
    check(redis, settings, watched)
    assert status(store, watched) is Status.PENDING
    assert told(store) == []
    assert waiting(redis)[0] == (CHECK_AGAIN, [watched.target.id])
    assert len(waiting(redis)) == 2


def test_a_second_failure_by_another_worker_is_told_and_the_incident_remembers_both(
    redis: Redis, store: Store, settings: Settings, site: Site
) -> None:
    (watched,) = put(store, site.url("/"), retries=2, backoff_factor=0)
    site.routes["/"] = Answer(500)
    check(redis, settings, watched)
    site.routes["/"] = Answer(503)
    asked = site.count("/")
    assert give_opinions(redis, settings) == 1
    assert site.count("/") == asked + 1, "an opinion is one attempt"
    assert status(store, watched) is Status.DOWN
    (entry,) = store.outbox.entries()
    alert, incident = entry["alert"], incident_fields(store, f"{watched.target.id}-1") or {}
    opinion = orjson.loads(incident["opinion"])
    assert (alert["by"], incident["by"]) == ("second", "second")
    assert opinion == alert["opinion"]
    assert (opinion["by"], "500" in opinion["sentence"]) == ("first", True)
    assert int(incident["opened_at"]) == opinion["at"] < int(incident["confirmed_at"])
    assert int(incident["detected_at"]) == opinion["ended"]


def test_a_good_opinion_clears_the_doubt_and_nobody_is_told(
    redis: Redis, store: Store, settings: Settings, site: Site
) -> None:
    (watched,) = put(store, site.url("/"))
    for _ in range(3):
        site.routes["/"] = BAD
        check(redis, settings, watched)
        site.routes["/"] = GOOD
        assert give_opinions(redis, settings) == 1
        (now,) = store.targets.load([watched.target.id])
        assert (now.state.status, now.state.failures, now.state.suspect) == (Status.UP, 0, None)
    assert told(store) == []
    assert redis.zcard(keys.INCIDENTS) == 0


def test_an_opinion_that_says_nothing_asks_for_no_other(store: Store, settings: Settings) -> None:
    """As while the canaries fail: the run would ask, and be told nothing, as fast as it can."""
    (watched,) = put(store, "http://a.example/")
    defaults = Defaults.of(settings)
    wants = [
        store.recording.record([(watched, result(watched, verdict, at))], defaults)[0].wants_opinion
        for at, verdict in enumerate((Verdict.DOWN, Verdict.UNKNOWN, Verdict.UNKNOWN, Verdict.DOWN, Verdict.DOWN), 1)
    ]
    assert wants == [True, False, False, False, False]
    assert told(store) == ["down"]


@pytest.mark.parametrize(
    ("fields", "failures"),
    [({}, 2), ({"second_opinion": False}, 1), ({"failure_threshold": 3}, 3)],
    ids=["as usual", "without opinion", "three in a row"],
)
def test_so_many_failures_make_a_target_down(
    store: Store, settings: Settings, fields: dict[str, int], failures: int
) -> None:
    (watched,) = put(store, "http://a.example/", **fields)
    for number in range(1, failures + 1):
        assert status(store, watched) is Status.PENDING
        recorded = store.recording.record([(watched, result(watched, Verdict.DOWN, number))], Defaults.of(settings))
        assert recorded[0].wants_opinion is (failures == 2 and number == 1)
    assert status(store, watched) is Status.DOWN


# --- with others ---------------------------------------------------------------------------------------------------


def test_the_parents_of_the_failed_are_asked_with_them(
    redis: Redis, store: Store, settings: Settings, site: Site
) -> None:
    (parent,) = put(store, site.url("/parent"))
    children = put(store, site.url("/1"), site.url("/2"), parent=parent.target.id)
    check(redis, settings, *children)
    assert [(name, set(ids)) for name, ids in waiting(redis)] == [
        (CHECK_AGAIN, {parent.target.id, *(each.target.id for each in children)})
    ]
    # The parent fails for the first time then, and has an opinion of its own before anybody is told of the children.
    give_opinions(redis, settings)
    assert status(store, parent) is Status.DOWN
    mail = store.outbox.claim("mail", now=int(time.time() * 1000) + 1)
    assert mail is not None
    assert [alert.target_id for alert in mail.alerts] == [parent.target.id]


def test_five_hundred_that_fail_at_once_make_one_job(
    redis: Redis, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.checks.batch.RECORD_SECONDS", 30.0)  # However slow this machine is, it is at once.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    targets = put(store, *(f"http://127.0.0.1:{port}/{number}" for number in range(BATCH_SIZE)))
    check(redis, settings, *targets)
    ((function, ids),) = waiting(redis)
    assert (function, set(ids)) == (CHECK_AGAIN, {each.target.id for each in targets})
    assert give_opinions(redis, settings) == 1
    assert store.targets.count_by_status()[Status.DOWN] == BATCH_SIZE
    assert store.outbox.counts().waiting == BATCH_SIZE


def test_a_paused_or_deleted_target_needs_no_opinion(
    redis: Redis, store: Store, settings: Settings, site: Site
) -> None:
    paused, deleted = put(store, site.url("/?1"), site.url("/?2"))
    check(redis, settings, paused, deleted)
    store.targets.patch(paused.target.id, lambda check: check.model_copy(update={"paused": True}), now=2)
    store.targets.delete(deleted.target.id, now=2)
    asked = len(site.requests)
    give_opinions(redis, settings)
    assert len(site.requests) == asked
    assert told(store) == []


# --- lost ----------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment_of_the_first_check_or_its_opinion_the_next_turn_tells_it_once(
    redis: Redis, valkey_url: str, settings: Settings
) -> None:
    """The first run and the opinion are one wire; what is left in the queue is given to another worker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    points, at_once = 0, 0
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        (watched,) = put(store, f"http://127.0.0.1:{port}/")
        with suppress(Killed):
            check(wire.client, settings, watched)
            give_opinions(wire.client, settings)
        settle(redis, wire)
        points += wire.has_happened
        give_opinions(redis, settings)
        at_once += status(store, watched) is Status.DOWN
        for _ in range(2):
            if status(store, watched) is not Status.DOWN:
                check(redis, settings, watched)
                give_opinions(redis, settings)
                break
        assert status(store, watched) is Status.DOWN, wire.moment
        assert told(store) == ["down"], wire.moment
        assert len(store.recording.history(watched.target.id)) >= 2
    assert points > 30
    assert at_once > points / 4


def test_an_opinion_that_was_lost_is_the_next_turn(redis: Redis, store: Store, settings: Settings, site: Site) -> None:
    (watched,) = put(store, site.url("/"))
    check(redis, settings, watched)
    redis.delete("rq:queue:checks")
    check(redis, settings, watched, by="next")
    assert status(store, watched) is Status.DOWN
    assert waiting(redis) == []


# --- POST /status?wait= --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("second", "expected"), [(BAD, Status.DOWN), (GOOD, Status.UP)])
def test_who_waits_for_a_result_waits_for_the_opinion(
    redis: Redis, store: Store, settings: Settings, site: Site, valkey_url: str, second: Answer, expected: Status
) -> None:
    client = app_on(valkey_url, second_opinion=True, alert_group_wait=0).test_client()
    queues = Queues(redis, settings)

    def work() -> None:
        taken = eventually(lambda: queues.take_waiting_check("run", 1), 5)
        assert taken is not None
        check(redis, settings, *store.targets.load(taken.args[0]))
        site.routes["/"] = second
        give_opinions(redis, settings)

    thread = threading.Thread(target=work)
    thread.start()
    answer = client.post("/status?wait=10", json={"targets": [{"endpoint": site.url("/")}]})
    thread.join(10)
    assert answer.status_code == 201, answer.text
    assert answer.get_json()["data"]["targets"][0]["status"] == expected


def test_who_waits_is_answered_at_once_when_the_opinion_says_nothing(
    redis: Redis, store: Store, settings: Settings, valkey_url: str
) -> None:
    client = app_on(valkey_url, second_opinion=True).test_client()

    def work() -> None:
        taken = eventually(lambda: Queues(redis, settings).take_waiting_check("run", 1), 5)
        assert taken is not None
        (watched,) = store.targets.load(taken.args[0])
        for number, verdict in enumerate((Verdict.DOWN, Verdict.UNKNOWN)):
            seen = result(watched, verdict, int(time.time() * 1000) + number)
            store.recording.record([(watched, seen)], Defaults.of(settings))

    thread = threading.Thread(target=work)
    thread.start()
    began = time.monotonic()
    answer = client.post("/status?wait=20", json={"targets": [{"endpoint": "http://a.example/"}]})
    thread.join(10)
    assert time.monotonic() - began < 8
    assert answer.get_json()["data"]["targets"][0]["status"] == "unknown"


# --- no worker of its own ------------------------------------------------------------------------------------------


def test_a_full_queue_holds_no_opinion_back(redis: Redis, store: Store, settings: Settings, site: Site) -> None:
    (watched,) = put(store, site.url("/"))
    scheduler = SlotScheduler(redis, settings)
    for number in range(20):
        Queues(redis, settings).push(CHECKS, "os.getpid", (), job_id=f"other-{number}")
    assert scheduler._is_full()
    check(redis, settings, watched)
    assert redis.lpos("rq:queue:checks", "other-0") == 1
