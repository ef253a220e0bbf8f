"""Stories of a whole monitor: every process of the Procfile, real targets, a real mail server, kill -9."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.monitor_run import PROJECT, MonitorRun
from tests.sites import Answer, Site
from tests.smtp import Mailbox, smtp_server
from tests.waiting import eventually

SETTINGS = {
    "DEFAULT_HTTP_INTERVAL": "5",
    "DEFAULT_HTTP_TIMEOUT": "2",
    "DEFAULT_HTTP_RETRIES": "1",
    "ALERT_GROUP_WAIT": "1",
    "MAIL_SERVER": "127.0.0.1",
    "MAIL_RECIPIENTS": "ops@example.org",
    "MAIL_DEFAULT_SENDER": "monitor@example.org",
}


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with smtp_server(Mailbox()) as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def monitor(mailbox: Mailbox) -> Iterator[MonitorRun]:
    with MonitorRun(**SETTINGS, MAIL_PORT=str(mailbox.port)) as run:
        yield run


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def subjects_about(mailbox: Mailbox, title: str) -> list[str]:
    """The subjects of the mails that name this target, be it among others: what flips close together is one mail."""
    return [
        str(message["Subject"])
        for message in mailbox.messages
        if (text := message.get_body(("plain",))) is not None and title in text.get_content()
    ]


def add(monitor: MonitorRun, site: Site, name: str, **fields: Any) -> str:
    endpoint = site.url(f"/{name}")
    monitor.post("/status", {"targets": [{"title": name, "endpoint": endpoint, **fields}]}, wait=10)
    return endpoint


def workers_alive(monitor: MonitorRun) -> int:
    count: int = monitor.get("/status/queue")["data"]["workers_alive"]
    return count


def history(monitor: MonitorRun, endpoint: str) -> list[dict[str, Any]]:
    target_id = monitor.target(endpoint)["id"]
    items: list[dict[str, Any]] = monitor.get(f"/api/v1/targets/{target_id}/results", limit=1000)["results"]
    return items


def test_a_new_target_shows_its_true_status_in_the_answer_to_its_post(monitor: MonitorRun, site: Site) -> None:
    site.routes["/new"] = Answer(200, b"hello")
    answer = monitor.post(
        "/status", {"targets": [{"title": "new", "endpoint": site.url("/new"), "expected_http_code": 200}]}, wait=10
    )
    target = answer["data"]["targets"][0]
    assert (target["status"], target["actual_response"], target["is_up"]) == ("up", 200, True)


def test_turns_are_five_seconds_apart_and_do_not_drift(monitor: MonitorRun, site: Site) -> None:
    site.routes["/steady"] = Answer(200)
    endpoint = add(monitor, site, "steady")

    def turns() -> list[str]:
        return [result["scheduled_at"] for result in history(monitor, endpoint) if result["scheduled_at"]]

    eventually(lambda: len(turns()) >= 4, 30)
    moments = sorted(_ms(turn) for turn in turns())
    assert {after - before for before, after in itertools.pairwise(moments)} == {5000}
    on_time = [each for each in history(monitor, endpoint) if each["scheduled_at"]]
    assert max(_ms(each["started_at"]) - _ms(each["scheduled_at"]) for each in on_time) < 2000


def test_going_down_and_coming_back_are_one_mail_each(monitor: MonitorRun, site: Site, mailbox: Mailbox) -> None:
    site.routes["/flips"] = Answer(200)
    endpoint = add(monitor, site, "flips")
    site.routes["/flips"] = Answer(500)
    eventually(lambda: monitor.target(endpoint)["is_down"], 15)
    eventually(lambda: subjects_about(mailbox, "flips"), 10)
    site.routes["/flips"] = Answer(200)
    eventually(lambda: monitor.target(endpoint)["is_up"], 15)
    eventually(lambda: len(subjects_about(mailbox, "flips")) == 2, 10)
    down, up = subjects_about(mailbox, "flips")
    assert down.startswith("DOWN")
    assert up.startswith("UP")


def test_a_changed_paused_and_deleted_target_is_checked_as_it_is_now(monitor: MonitorRun, site: Site) -> None:
    site.routes["/changing"] = Answer(404)
    endpoint = add(monitor, site, "changing")
    target_id = monitor.target(endpoint)["id"]
    assert monitor.target(endpoint)["is_down"]
    address = f"{monitor.url}/api/v1/targets/{target_id}"
    assert requests.patch(address, json={"expected_http_code": 404}, timeout=5).ok
    eventually(lambda: monitor.target(endpoint)["is_up"], 3)
    assert requests.patch(address, json={"paused": True}, timeout=5).ok
    assert monitor.target(endpoint)["status"] == "paused"
    assert requests.delete(address, timeout=5).status_code == 204
    assert requests.get(address, timeout=5).status_code == 404


def test_the_pool_grows_and_shrinks_while_it_runs(monitor: MonitorRun) -> None:
    monitor.post("/status/queue", {"worker_thread": 7, "queue_size": 4})
    eventually(lambda: workers_alive(monitor) == 7, 15)
    monitor.post("/status/queue", {"worker_thread": 2, "queue_size": 0})
    eventually(lambda: workers_alive(monitor) == 2, 15)
    assert monitor.get("/status/queue")["data"]["queue_size"] == 3


def test_a_stock_worker_joins_the_pool_with_nothing_but_the_environment(monitor: MonitorRun, tmp_path: Path) -> None:
    before = workers_alive(monitor)
    rq = str(Path(sys.executable).with_name("rq"))
    environment = {**os.environ, "DATA_DIR": str(monitor.data), "PYTHONPATH": str(PROJECT)}

    def has_joined() -> bool:
        assert worker.poll() is None, said.read_text()
        return workers_alive(monitor) == before + 1

    said = tmp_path / "said"
    with (
        said.open("wb") as output,
        subprocess.Popen(
            [rq, "worker", "-c", "worker.rqconfig", "checks"],
            cwd=PROJECT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as worker,
    ):
        try:
            eventually(has_joined, 15)
        finally:
            worker.terminate()
    eventually(lambda: workers_alive(monitor) == before, 15)


def test_events_tell_what_happens_with_phases_and_bottleneck(monitor: MonitorRun, site: Site) -> None:
    site.routes["/told"] = Answer(200)
    endpoint = add(monitor, site, "told")
    target_id = monitor.target(endpoint)["id"]
    with requests.get(f"{monitor.url}/events", params={"target": target_id}, stream=True, timeout=15) as stream:
        for line in stream.iter_lines():
            if line.startswith(b"data:") and b"phases" in line:
                event = json.loads(line[5:])
                break
    assert event["target"] == target_id
    assert event["bottleneck"] in event["phases"]


def test_an_emptied_redis_gets_its_targets_back_and_mails_nobody(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    site.routes["/kept"] = Answer(200)
    site.routes["/kept-down"] = Answer(500)
    endpoints = [add(monitor, site, "kept"), add(monitor, site, "kept-down")]
    eventually(lambda: subjects_about(mailbox, "kept-down"), 30)
    ids = [monitor.target(endpoint)["id"] for endpoint in endpoints]
    snapshot = monitor.data / "targets.json"
    eventually(lambda: '"down"' in snapshot.read_text() and all(each in snapshot.read_text() for each in ids), 25)
    mails = len(mailbox.messages)
    with monitor.redis() as redis:
        redis.flushall()
    eventually(lambda: _has(monitor, endpoints), 30)
    assert [monitor.target(endpoint)["id"] for endpoint in endpoints] == ids
    before = len(history(monitor, endpoints[1]))
    eventually(lambda: len(history(monitor, endpoints[1])) > before, 15)
    assert len(mailbox.messages) == mails


def test_processes_killed_at_random_lose_nothing(monitor: MonitorRun, site: Site, mailbox: Mailbox) -> None:
    site.routes["/survivor"] = Answer(200)
    endpoint = add(monitor, site, "survivor")
    victims = ["worker.scheduler", "worker.pool", "gunicorn", " emails", " housekeeping", "valkey-server"]
    random.Random(7).shuffle(victims)
    for victim in victims:
        monitor.kill(victim)
    site.routes["/survivor"] = Answer(500)
    monitor.wait_until_ready()
    eventually(lambda: monitor.target(endpoint)["is_down"], 30)
    eventually(lambda: subjects_about(mailbox, "survivor"), 30)
    assert len(subjects_about(mailbox, "survivor")) == 1


def test_stopped_and_started_again_it_goes_on_where_it_was(monitor: MonitorRun, site: Site, mailbox: Mailbox) -> None:
    site.routes["/resumed"] = Answer(200)
    endpoint = add(monitor, site, "resumed")
    before, mails = monitor.target(endpoint), len(mailbox.messages)
    assert monitor.stop() == 0
    assert monitor.pids() == []
    monitor.start()
    assert monitor.target(endpoint)["id"] == before["id"]
    assert len(history(monitor, endpoint)) >= 1
    monitor.kill_all()
    monitor.start()
    count = len(history(monitor, endpoint))
    eventually(lambda: len(history(monitor, endpoint)) > count, 15)
    assert len(mailbox.messages) == mails


def _has(monitor: MonitorRun, endpoints: list[str]) -> bool:
    answers = [requests.get(f"{monitor.url}/status", params={"endpoint": each}, timeout=5) for each in endpoints]
    return all(answer.status_code == 200 for answer in answers)


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
