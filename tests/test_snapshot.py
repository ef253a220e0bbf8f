"""The snapshot: whole or not written, restored when Redis was lost and only then, and never a reason for a mail."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from rq import Queue

from shared import health
from shared.check import Check
from shared.maintenance import Maintenance
from shared.monitor import Verdict
from shared.queues import CHECK_TARGETS, CHECKS, Queues
from shared.settings import Settings
from shared.snapshot import Draft, SnapshotError, decode, digest_of, encode, lines, preflight, write
from shared.state import State, Status
from shared.store import Store, Stored
from tests.fakes import Killed, Wire, everywhere, put, record, settings_for, settle
from tests.waiting import eventually
from worker.snapshots import SnapshotKeeper

NOW = 1_800_000_000_000


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    return settings_for(valkey_url, data_dir=tmp_path)


@pytest.fixture
def path(settings: Settings) -> Path:
    return settings.snapshot_path


@pytest.fixture
def keep(redis: Redis, settings: Settings) -> Callable[[], None]:
    """One run of the snapshot job, as if something had changed since the last."""

    def run() -> None:
        Store(redis).vitals.set_snapshot(at=0)
        keeper(redis, settings).keep()

    return run


def keeper(redis: Redis, settings: Settings) -> SnapshotKeeper:
    return SnapshotKeeper(Store(redis), Queues(redis, settings), settings)


def keep_until_killed(wire: Wire, redis: Redis, settings: Settings) -> None:
    """A run of the snapshot job that is killed at the wire's moment, and the end of its lease."""
    with suppress(Killed, RedisConnectionError):
        keeper(wire.client, settings).keep()
    settle(redis, wire)
    redis.delete("monitor:lease:snapshot-file")


def everything(store: Store) -> list[tuple[str, Check, State, dict[str, Any] | None]]:
    """What a restore must bring back of every target."""
    targets = store.targets.page(limit=10_000)
    return [(each.target.id, each.target.check, each.state, each.latest) for each in targets]


def in_file(path: Path) -> list[str]:
    """The endpoints in the file, which must be one that can be read."""
    return [saved.check.endpoint for saved in decode(path.read_bytes(), path)]


def checks_enqueued(redis: Redis) -> list[str]:
    jobs = Queue(CHECKS, connection=redis).jobs
    assert {job.func_name for job in jobs} <= {CHECK_TARGETS}
    return [target_id for job in jobs for target_id in job.args[0]]


def others(path: Path) -> list[str]:
    """What else lies in the folder."""
    return sorted(each.name for each in path.parent.iterdir() if each != path)


# --- what is written -----------------------------------------------------------------------------------------------


def test_the_file_holds_every_target_with_its_configuration_state_and_latest_result(
    store: Store, settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    (watched,) = put(store, "https://user:pw@a.example/", title="Shöp", interval=60, error_codes=(503,))
    record(store, settings, [watched], Verdict.DOWN, NOW)
    (down,) = store.targets.page()

    keep()

    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["format"] == 1
    assert document["targets"] == [
        {
            "id": down.target.id,
            "title": "Shöp",
            "endpoint": "https://user:pw@a.example/",
            "expected_http_code": 200,
            "interval": 60,
            "error_codes": [503],
            "state": json.loads(down.raw_state),
            "latest": down.latest,
        }
    ]


def test_without_a_target_and_a_file_the_file_says_that_there_is_none(path: Path, keep: Callable[[], None]) -> None:
    keep()
    assert in_file(path) == []


def test_a_file_is_for_its_owner_only_whatever_it_was_before(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    path.write_text('{"targets": []}')
    path.chmod(0o666)
    left_behind = path.with_name(".targets.json.tmp")
    left_behind.touch()
    left_behind.chmod(0o666)
    put(store, "http://a.example/")
    keep()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_written_when_something_changed_and_at_least_every_minute(
    redis: Redis, store: Store, settings: Settings, path: Path
) -> None:
    def is_written() -> bool:
        before = path.stat().st_ino if path.exists() else None
        keeper(redis, settings).keep()
        return path.stat().st_ino != before

    targets = put(store, "http://a.example/")
    assert is_written()
    assert not is_written()
    record(store, settings, targets, Verdict.UP, NOW)
    assert is_written()
    record(store, settings, targets, Verdict.UP, NOW + 1_000)
    assert not is_written()
    store.vitals.set_snapshot(at=int(time.time() * 1000) - 59_000)
    assert not is_written()
    store.vitals.set_snapshot(at=int(time.time() * 1000) - 60_000)
    assert is_written()


def test_two_runs_at_once_are_one_run(redis: Redis, store: Store, settings: Settings, path: Path) -> None:
    put(store, "http://a.example/")
    assert store.vitals.lease("snapshot-file", "another run")
    keeper(redis, settings).keep()
    assert not path.exists()
    store.vitals.release(["snapshot-file"], "another run")
    keeper(redis, settings).keep()
    assert in_file(path) == ["http://a.example/"]


def test_a_long_run_keeps_its_lease(
    redis: Redis, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, *[f"http://a.example/{number}" for number in range(1_500)])
    left: list[int] = []

    def stored(**wanted: Any) -> list[Stored]:
        left.append(redis.pttl("monitor:lease:snapshot-file"))
        redis.pexpire("monitor:lease:snapshot-file", 1_000)
        return Store(redis).targets.stored(**wanted)

    run = keeper(redis, settings)
    monkeypatch.setattr(run._store.targets, "stored", stored)
    run.keep()
    assert len(left) == 3
    assert min(left) > 1_000


# --- Redis is lost -------------------------------------------------------------------------------------------------


def a_monitor_with_a_past(store: Store, settings: Settings) -> None:
    """Targets of every status, one of which was resumed in the middle of an incident, and one made just now."""
    up, down, unknown, paused, resumed, _new = put(store, *[f"http://{name}.example/" for name in "abcdef"], title="T")
    record(store, settings, [up], Verdict.UP, NOW)
    record(store, settings, [down, resumed], Verdict.DOWN, NOW)
    record(store, settings, [unknown], Verdict.UNKNOWN, NOW)
    for watched in (paused, resumed):
        store.targets.patch(watched.target.id, lambda check: check.model_copy(update={"paused": True}), now=NOW)
    store.targets.patch(resumed.target.id, lambda check: check.model_copy(update={"paused": False}), now=NOW + 1)


def test_when_redis_was_emptied_every_target_is_back_as_it_was(
    redis: Redis, store: Store, settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    a_monitor_with_a_past(store, settings)
    keep()
    before, counts, newest = everything(store), store.targets.count_by_status(), store.targets.newest()
    slots = store.targets.intervals()
    redis.flushall()

    keeper(redis, settings).keep()

    assert everything(store) == before
    assert store.targets.count_by_status() == counts
    assert store.targets.newest() == newest
    assert store.targets.intervals() == slots
    assert len(in_file(path)) == 6
    assert others(path) == []


def test_at_a_start_on_another_redis_every_target_is_back_too(
    redis: Redis, store: Store, settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    a_monitor_with_a_past(store, settings)
    keep()
    before = everything(store)
    redis.flushall()

    preflight(settings)
    keep()

    assert everything(store) == before


def test_only_what_has_never_been_checked_or_was_resumed_is_checked_at_once_after_a_restore(
    redis: Redis, store: Store, settings: Settings, keep: Callable[[], None]
) -> None:
    a_monitor_with_a_past(store, settings)
    keep()
    pending = {each.target.id for each in store.targets.page(status=Status.PENDING)}
    redis.flushall()
    keep()
    assert len(pending) == 2
    assert set(checks_enqueued(redis)) == pending


def test_nobody_is_mailed_for_what_did_not_change_and_the_recovery_is_told(
    redis: Redis, store: Store, settings: Settings, keep: Callable[[], None]
) -> None:
    down, up = put(store, "http://a.example/", "http://b.example/")
    record(store, settings, [down], Verdict.DOWN, NOW)
    record(store, settings, [up], Verdict.UP, NOW)
    keep()
    redis.flushall()
    keep()
    assert store.outbox.entries() == []

    down, up = store.targets.page()
    record(store, settings, [down], Verdict.DOWN, NOW + 1_000)
    record(store, settings, [up], Verdict.UP, NOW + 1_000)
    assert store.outbox.entries() == []

    record(store, settings, [down], Verdict.UP, NOW + 2_000)
    (entry,) = store.outbox.entries()
    assert (entry["alert"]["kind"], entry["alert"]["began_at"]) == ("up", NOW)


def test_a_result_that_was_recorded_before_the_loss_is_not_recorded_again(
    redis: Redis, store: Store, settings: Settings, keep: Callable[[], None]
) -> None:
    (watched,) = put(store, "http://a.example/")
    record(store, settings, [watched], Verdict.UP, NOW)
    keep()
    redis.flushall()
    keep()
    before = everything(store)
    record(store, settings, [watched], Verdict.DOWN, NOW)
    assert everything(store) == before


def test_targets_made_after_the_loss_and_before_the_restore_are_kept_beside_the_restored(
    redis: Redis, store: Store, settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    put(store, "http://a.example/", "http://b.example/")
    keep()
    redis.flushall()
    (again, _) = put(store, "http://b.example/", "http://c.example/")

    keep()

    assert sorted(in_file(path)) == ["http://a.example/", "http://b.example/", "http://c.example/"]
    assert store.targets.get(again.target.id) == again


def test_thousands_of_targets_are_restored(
    redis: Redis, store: Store, settings: Settings, keep: Callable[[], None]
) -> None:
    put(store, *[f"http://a.example/{number}" for number in range(1_100)])
    keep()
    before = everything(store)
    redis.flushall()
    keep()
    assert everything(store) == before
    assert len(checks_enqueued(redis)) == 1_100


def test_killed_at_any_moment_of_a_restore_the_next_run_restores_the_rest(
    redis: Redis, valkey_url: str, settings: Settings, path: Path
) -> None:
    path.write_text(json.dumps({"targets": [{"endpoint": f"http://{name}.example/"} for name in "abc"]}))
    content = path.read_bytes()
    for wire in everywhere(valkey_url, redis, Wire.kill):
        path.write_bytes(content)
        keep_until_killed(wire, redis, settings)
        keeper(redis, settings).keep()
        assert Store(redis).targets.count() == 3
        assert in_file(path) == [f"http://{name}.example/" for name in "abc"]
        assert others(path) == []


# --- maintenance windows -------------------------------------------------------------------------------------------

ONCE: dict[str, Any] = {
    "title": "Move",
    "start": "2026-03-01T10:00:00+01:00",
    "end": "2026-03-01T12:00:00+01:00",
    "tags": ["db"],
}
AGAIN: dict[str, Any] = {
    "title": "Backup",
    "start": "2026-03-01T02:30:00+01:00",
    "rrule": "FREQ=WEEKLY;BYDAY=SU",
    "duration": 7200,
    "timezone": "Europe/Berlin",
}


def windows_in(path: Path) -> Any:
    return json.loads(path.read_bytes()).get("maintenance")


def test_the_file_holds_maintenance_windows_in_the_shape_of_post(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    put(store, "http://a.example/")
    keep()
    assert windows_in(path) is None
    again, once = (store.maintenance.put(Maintenance(**fields)) for fields in (AGAIN, ONCE))
    keep()
    assert windows_in(path) == [{"id": again.id, **AGAIN}, {"id": once.id, **ONCE}]
    assert in_file(path) == ["http://a.example/"]


def test_a_change_of_a_maintenance_window_is_written_soon(
    redis: Redis, store: Store, settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    keep()
    window = store.maintenance.put(Maintenance(**ONCE))
    keeper(redis, settings).keep()
    assert windows_in(path) == [{"id": window.id, **ONCE}]
    store.maintenance.delete(window.id or "")
    keeper(redis, settings).keep()
    assert windows_in(path) is None


def test_when_redis_was_emptied_every_maintenance_window_is_back_under_its_id(
    redis: Redis, store: Store, keep: Callable[[], None]
) -> None:
    windows = [store.maintenance.put(Maintenance(**fields)) for fields in (AGAIN, ONCE)]
    put(store, "http://a.example/")
    keep()
    redis.flushall()
    later = store.maintenance.put(Maintenance(**{**ONCE, "title": "Since"}))
    keep()
    assert store.maintenance.all() == [*windows, later]


def test_a_window_that_people_deleted_stays_deleted(store: Store, keep: Callable[[], None]) -> None:
    window = store.maintenance.put(Maintenance(**ONCE))
    keep()
    store.maintenance.delete(window.id or "")
    keep()
    keep()
    assert store.maintenance.all() == []


def test_windows_written_by_hand_are_read_and_copied_ids_lose_none(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    copied = "3f0c2a9d1b7e4f65"
    windows = [AGAIN, {**ONCE, "id": copied}, {**ONCE, "title": "Second", "id": copied}]
    path.write_text(json.dumps({"targets": [], "maintenance": windows}))
    keep()
    again, once, second = store.maintenance.all()
    assert (again.title, once.title, second.title) == ("Backup", "Move", "Second")
    assert once.id == copied
    assert len({again.id, once.id, second.id}) == 3
    assert windows_in(path) == [{"id": again.id, **AGAIN}, {"id": once.id, **ONCE}, {**windows[2], "id": second.id}]


def test_killed_at_any_moment_of_a_restore_no_window_is_there_twice(
    redis: Redis, valkey_url: str, settings: Settings, path: Path
) -> None:
    content = json.dumps({"targets": [{"endpoint": "http://a.example/"}], "maintenance": [AGAIN, ONCE]})
    for wire in everywhere(valkey_url, redis, Wire.kill):
        path.write_text(content)
        keep_until_killed(wire, redis, settings)
        keeper(redis, settings).keep()
        assert [window.title for window in Store(redis).maintenance.all()] == ["Backup", "Move"]
        assert len(windows_in(path)) == 2


# --- Redis was emptied by people -----------------------------------------------------------------------------------


def delete_all(store: Store) -> None:
    for watched in store.targets.page():
        store.targets.delete(watched.target.id, now=NOW)


def test_a_list_that_people_emptied_stays_empty(store: Store, path: Path, keep: Callable[[], None]) -> None:
    put(store, "http://a.example/", "http://b.example/")
    keep()
    delete_all(store)
    keep()
    assert in_file(path) == []
    keep()
    assert store.targets.count() == 0


def test_a_list_that_people_emptied_stays_empty_also_when_the_run_that_writes_it_is_killed(
    redis: Redis, valkey_url: str, settings: Settings, path: Path
) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        path.unlink(missing_ok=True)
        store = Store(redis)
        put(store, "http://a.example/", "http://b.example/")
        keeper(redis, settings).keep()
        delete_all(store)
        keep_until_killed(wire, redis, settings)
        keeper(redis, settings).keep()
        assert store.targets.count() == 0
        assert in_file(path) == []
        assert others(path) == []


def test_a_list_emptied_after_a_killed_run_stays_empty(
    redis: Redis, valkey_url: str, settings: Settings, path: Path
) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        path.unlink(missing_ok=True)
        store = Store(redis)
        put(store, "http://a.example/")
        keeper(redis, settings).keep()
        put(store, "http://b.example/")
        keep_until_killed(wire, redis, settings)
        delete_all(store)
        keeper(redis, settings).keep()
        assert store.targets.count() == 0
        assert in_file(path) == []


def test_killed_at_any_moment_of_writing_no_file_of_ours_is_taken_for_somebody_elses(
    redis: Redis, valkey_url: str, settings: Settings, path: Path
) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        path.unlink(missing_ok=True)
        store = Store(redis)
        first, _ = put(store, "http://a.example/", "http://b.example/")
        keeper(redis, settings).keep()
        store.targets.delete(first.target.id, now=NOW)
        keep_until_killed(wire, redis, settings)
        assert in_file(path)[-1:] == ["http://b.example/"]
        store.vitals.set_snapshot(at=0)
        keeper(redis, settings).keep()
        assert in_file(path) == ["http://b.example/"]
        assert others(path) == []


def test_redis_emptied_while_the_targets_are_read_does_not_empty_the_file(
    redis: Redis, store: Store, settings: Settings, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "http://a.example/", "http://b.example/")
    keeper(redis, settings).keep()
    before, content = everything(store), path.read_bytes()
    put(store, "http://c.example/")

    def empty_first(**wanted: Any) -> list[Stored]:
        redis.flushall()
        return Store(redis).targets.stored(**wanted)

    run = keeper(redis, settings)
    monkeypatch.setattr(run._store.targets, "stored", empty_first)
    run.keep()
    assert path.read_bytes() == content

    keeper(redis, settings).keep()
    assert everything(store) == before


@pytest.mark.parametrize("moment", ["changes", "snapshot", "birth"])
def test_redis_emptied_between_the_look_at_it_and_the_reading_does_not_empty_the_file(
    redis: Redis, store: Store, settings: Settings, path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    put(store, "http://a.example/")
    keeper(redis, settings).keep()
    content = path.read_bytes()
    store.vitals.set_snapshot(at=0)

    run = keeper(redis, settings)
    look = getattr(run._store.vitals, moment)

    def empty_first() -> Any:
        redis.flushall()
        return look()

    monkeypatch.setattr(run._store.vitals, moment, empty_first)
    run.keep()
    assert path.read_bytes() == content


def test_redis_emptied_and_born_again_while_the_targets_are_read_does_not_empty_the_file(
    redis: Redis, store: Store, settings: Settings, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "http://a.example/")
    keeper(redis, settings).keep()
    content = path.read_bytes()
    store.vitals.set_snapshot(at=0)

    def empty_and_bear(**wanted: Any) -> list[Stored]:
        redis.flushall()
        Store(redis).vitals.bear()
        return Store(redis).targets.stored(**wanted)

    run = keeper(redis, settings)
    monkeypatch.setattr(run._store.targets, "stored", empty_and_bear)
    run.keep()
    assert path.read_bytes() == content


# --- files of others -----------------------------------------------------------------------------------------------


def test_a_file_written_by_hand_is_read_and_its_targets_are_checked_at_once(
    redis: Redis, store: Store, path: Path, keep: Callable[[], None]
) -> None:
    path.write_text('{"targets":[{"endpoint":"http://a.example/"},{"title":"B","endpoint":"http://b.example/"}]}')
    began = int(time.time() * 1000)

    keep()

    first, second = store.targets.page()
    assert first.target.check == Check(endpoint="http://a.example/", expected_http_code=200)
    assert second.target.check.title == "B"
    for watched in (first, second):
        assert watched.state.status is Status.PENDING
        assert began <= watched.state.since <= time.time() * 1000
    assert checks_enqueued(redis) == [first.target.id, second.target.id]
    assert in_file(path) == ["http://a.example/", "http://b.example/"]
    assert others(path) == []


def test_a_file_written_by_hand_follows_the_default_code_of_its_day(
    redis: Redis, store: Store, valkey_url: str, tmp_path: Path
) -> None:
    settings = settings_for(valkey_url, data_dir=tmp_path, default_http_status_code=204)
    settings.snapshot_path.write_text('{"targets":[{"endpoint":"http://a.example/"}]}')
    keeper(redis, settings).keep()
    assert store.targets.page()[0].target.check.expected_http_code == 204


def test_a_file_written_by_hand_for_a_list_that_people_emptied_is_read(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    put(store, "http://a.example/")
    keep()
    delete_all(store)
    keep()
    path.write_text('{"targets":[{"endpoint":"http://b.example/"}]}')
    keep()
    assert [each.target.check.endpoint for each in store.targets.page()] == ["http://b.example/"]


def test_a_file_edited_while_the_monitor_runs_is_kept_under_another_name(
    store: Store, path: Path, keep: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "http://a.example/")
    keep()
    edited = path.read_text().replace("http://a.example/", "http://edited.example/")
    path.write_text(edited)
    with caplog.at_level(logging.WARNING):
        keep()
    assert in_file(path) == ["http://a.example/"]
    assert path.with_name("targets.json.replaced").read_text() == edited
    assert "targets.json.replaced" in caplog.text
    keep()
    assert path.with_name("targets.json.replaced").read_text() == edited


GOOD = '{"endpoint":"http://a.example/"}'
BAD_FILES = {
    "truncated": ('{"format": 1, "targets": [\n' + GOOD + ",\n", "is not complete JSON"),
    "empty": ("", "is not complete JSON"),
    "binary": ("\x00\x01\x02", "is not complete JSON"),
    "deep": ("[" * 100_000, "is not complete JSON"),
    "foreign list": ("[]", 'must be an object with a list "targets"'),
    "foreign object": ('{"monitors": []}', 'must be an object with a list "targets"'),
    "foreign targets": ('{"targets": {"a": 1}}', 'must be an object with a list "targets"'),
    "newer format": ('{"format": 2, "targets": []}', "has format 2, and this program reads format 1"),
    "odd format": ('{"format": "1", "targets": []}', "has format '1'"),
    "entry no object": ('{"targets": ["http://a.example/"]}', "targets[0]: must be an object"),
    "no endpoint": (f'{{"targets": [{GOOD}, {{"title": "x"}}]}}', "targets[1]: endpoint: Field required"),
    "bad endpoint": ('{"targets": [{"endpoint": "ftp://u:hunter2@a"}]}', "targets[0]: endpoint: must begin with http"),
    "bad field": (
        '{"targets": [{"endpoint": "http://u:hunter2@a", "interval": 1}]}',
        "targets[0]: interval: Input should be greater than or equal to 5",
    ),
    "unknown field": (
        '{"targets": [{"endpoint": "http://a", "intervall": 60}]}',
        "targets[0]: intervall: Extra inputs",
    ),
    "bad id": ('{"targets": [{"endpoint": "http://a", "id": "../x"}]}', "targets[0]: id must be 16 hexadecimal digits"),
    "windows no list": ('{"targets": [], "maintenance": {}}', "maintenance must be a list of at most 1000 windows"),
    "too many windows": (
        json.dumps({"targets": [], "maintenance": [ONCE] * 1001}),
        "maintenance must be a list of at most 1000 windows",
    ),
    "window no object": ('{"targets": [], "maintenance": ["x"]}', "maintenance[0]: must be an object"),
    "bad window": (
        json.dumps({"targets": [], "maintenance": [ONCE, {**AGAIN, "duration": 5}]}),
        "maintenance[1]: duration: Input should be greater than or equal to 60",
    ),
    "bad rule of a window": (
        json.dumps({"targets": [], "maintenance": [{**AGAIN, "rrule": "FREQ=MINUTELY"}]}),
        "maintenance[0]: rrule: must have a FREQ of YEARLY",
    ),
    "window that ends before it begins": (
        json.dumps({"targets": [], "maintenance": [{**ONCE, "end": "2026-03-01T09:00:00+01:00"}]}),
        "maintenance[0]: end: must be after start",
    ),
    "bad id of a window": (
        json.dumps({"targets": [], "maintenance": [{**ONCE, "id": "../x"}]}),
        "maintenance[0]: id: String should match pattern",
    ),
    "bad status": (
        '{"targets": [{"endpoint": "http://a", "state": {"status": "sideways"}}]}',
        "targets[0]: state.status: Invalid enum value 'sideways'",
    ),
    "bad time": (
        '{"targets": [{"endpoint": "http://a", "state": {"status": "up", "checked_at": "today"}}]}',
        "targets[0]: state.checked_at: Expected `int`, got `str`",
    ),
    "state no object": (
        '{"targets": [{"endpoint": "http://a", "state": "up"}]}',
        "targets[0]: state: Expected `object`, got `str`",
    ),
    "down without an incident": (
        '{"targets": [{"endpoint": "http://a", "state": {"status": "down"}}]}',
        "targets[0]: state: is not one that this program wrote",
    ),
    "up with an incident": (
        '{"targets": [{"endpoint": "http://a", "state": {"status": "up", "incident": "x", "down_at": 1}}]}',
        "targets[0]: state: is not one that this program wrote",
    ),
}


@pytest.mark.parametrize(("content", "problem"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong_and_never_overwritten(
    redis: Redis, store: Store, settings: Settings, path: Path, keep: Callable[[], None], content: str, problem: str
) -> None:
    path.write_text(content)

    with pytest.raises(SnapshotError) as caught:
        preflight(settings)
    keep()
    keep()

    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert problem in sentence
    assert "hunter2" not in sentence
    assert path.read_text() == content
    assert others(path) == []
    assert store.targets.count() == 0
    assert store.maintenance.all() == []
    assert not store.vitals.is_born()
    seen = health.look(store, Queues(redis, settings), settings, now=NOW)
    assert seen.warnings == (f"the snapshot is not being written: {sentence}",)


def test_a_folder_in_the_place_of_the_file_is_a_clear_error(
    settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    path.mkdir()
    with pytest.raises(SnapshotError, match=r"targets\.json: cannot be read: Is a directory"):
        preflight(settings)
    keep()
    assert path.is_dir()


def test_no_file_at_all_is_no_error(settings: Settings) -> None:
    preflight(settings)


@pytest.mark.parametrize("content", ["", "not JSON", '{"format": 99, "targets": []}', '{"targets": [{}]}'])
def test_a_file_that_became_unreadable_while_the_monitor_runs_is_not_overwritten(
    store: Store, path: Path, keep: Callable[[], None], content: str
) -> None:
    put(store, "http://a.example/")
    keep()
    path.write_text(content)
    keep()
    assert path.read_text() == content
    assert str(path) in (store.vitals.snapshot().error or "")
    assert store.targets.count() == 1


def test_a_file_that_was_mended_is_read_and_the_error_is_gone(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    path.write_text('{"targets": [')
    keep()
    path.write_text('{"targets": [{"endpoint": "http://a.example/"}]}')
    keep()
    assert store.targets.count() == 1
    assert store.vitals.snapshot().error is None


# --- the disk ------------------------------------------------------------------------------------------------------


@contextmanager
def a_disk_with_room_for(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes; Python ignores the signal, so that writes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_whole_and_is_reported_until_there_is_room(
    redis: Redis, store: Store, settings: Settings, path: Path, keep: Callable[[], None]
) -> None:
    put(store, "http://a.example/")
    keep()
    content = path.read_bytes()
    put(store, *[f"http://b.example/{number}" for number in range(100)])

    with a_disk_with_room_for(4_096):
        keep()

    assert path.read_bytes() == content
    assert others(path) == []
    seen = health.look(store, Queues(redis, settings), settings, now=NOW)
    assert f"the snapshot is not being written: {path}: cannot be written: File too large" in seen.warnings

    keeper(redis, settings).keep()
    assert len(in_file(path)) == 101
    assert store.vitals.snapshot().error is None


def test_a_folder_that_is_missing_is_made(path: Path) -> None:
    deep = path.parent / "a" / "b" / "targets.json"
    write(deep, b"{}")
    assert deep.read_bytes() == b"{}"


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(path: Path) -> None:
    path.write_text("x")
    with pytest.raises(SnapshotError, match=r"below: cannot be written: "):
        write(path / "below", b"{}")


def test_an_edited_file_that_cannot_be_kept_is_not_overwritten(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    put(store, "http://a.example/")
    keep()
    path.write_text('{"targets": []}')
    path.with_name("targets.json.replaced").mkdir()
    keep()
    assert path.read_text() == '{"targets": []}'
    assert "targets.json.replaced: cannot be written" in (store.vitals.snapshot().error or "")


def contents(store: Store) -> tuple[bytes, bytes]:
    """Two snapshots of different lengths, both larger than one write of the disk."""
    put(store, *[f"http://a.example/{number}" for number in range(500)])
    targets = store.targets.stored(limit=500)
    return encode(targets, now=NOW), encode(targets[:100], now=NOW)


def test_a_reader_never_sees_half_a_file(store: Store, path: Path) -> None:
    both = contents(store)
    write(path, both[0])
    is_over = threading.Event()
    seen: list[bytes] = []

    def read_on() -> None:
        while not is_over.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read_on)
    reader.start()
    for number in range(200):
        write(path, both[number % 2])
    is_over.set()
    reader.join()
    assert len(seen) > 20
    assert set(seen) <= set(both)
    assert others(path) == []


def _write_on(path: Path, both: tuple[bytes, bytes]) -> None:
    number = 0
    while True:
        write(path, both[number % 2])
        number += 1


def test_a_writer_killed_at_any_time_leaves_a_whole_file_and_no_litter(store: Store, path: Path) -> None:
    both = contents(store)
    write(path, both[0])
    times = random.Random(1)
    for _ in range(20):
        before = path.stat().st_ino
        writer = multiprocessing.get_context("fork").Process(target=_write_on, args=(path, both))
        writer.start()
        eventually(lambda before=before: path.stat().st_ino != before)  # type: ignore[misc]
        time.sleep(times.uniform(0, 0.01))  # the moment of the kill
        writer.kill()
        writer.join()
        writer.close()
        assert path.read_bytes() in both
        assert len(in_file(path)) in (100, 500)
    write(path, both[0])
    assert others(path) == []


def test_the_writer_waits_for_the_disk_before_the_new_file_takes_the_old_ones_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if is_folder else "sync file")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write(path, b"{}")
    assert steps == ["sync file", "rename", "sync folder"]


# --- many targets --------------------------------------------------------------------------------------------------


def with_a_field_twice(content: bytes) -> bytes:
    return content.replace(
        b'"endpoint":"http://a.example/2"', b'"endpoint":"http://b.example/","endpoint":"http://b.example/2"'
    )


def with_a_field_that_no_target_has(content: bytes) -> bytes:
    return content.replace(b'"endpoint":"http://a.example/2"', b'"endpoint":"http://a.example/2","colour":"red"')


@pytest.mark.parametrize(
    ("change", "problem"),
    [(with_a_field_twice, "names 'endpoint' twice"), (with_a_field_that_no_target_has, "targets[2]: colour: ")],
)
def test_a_line_that_was_changed_in_our_own_file_is_read_with_the_same_care_as_a_file_by_hand(
    store: Store, path: Path, change: Callable[[bytes], bytes], problem: str
) -> None:
    content, _ = contents(store)
    changed = change(content)
    assert changed != content
    with pytest.raises(SnapshotError) as refusal:
        decode(changed, path)
    assert problem in str(refusal.value)


def test_a_body_of_json_keeps_what_is_named_like_a_field_of_its_target(
    store: Store, path: Path, keep: Callable[[], None]
) -> None:
    body = {"type": "json", "content": {"paused": False, "lines": ["]\n]", {"id": 1}]}}
    put(store, "http://a.example/", "http://b.example/", method="POST", body=body)
    before = everything(store)
    keep()
    assert [saved.check for saved in decode(path.read_bytes(), path)] == [check for _, check, _, _ in before]


def test_a_snapshot_of_many_targets_is_never_held_as_a_whole(store: Store, path: Path) -> None:
    put(store, "http://a.example/")
    (stored,) = store.targets.stored()
    taken = 0

    def many() -> Iterator[Stored]:
        nonlocal taken
        for _ in range(20_000):
            taken += 1
            yield stored

    seen = []
    with Draft(path) as draft:
        for piece in lines(many(), now=NOW):
            seen.append(taken)
            draft.write(piece)
        draft.publish()
    assert seen == [0, *range(1, 20_001), 20_000], "each is written before the next is read"
    assert digest_of(path.read_bytes()) == draft.digest
