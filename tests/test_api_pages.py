"""The page for people."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.connection import UnixDomainSocketConnection

from api import create_app
from api.pages.pictures import phases
from api.pages.words import ago, milliseconds
from shared.monitor import Alert, Reason, Verdict
from shared.settings import Settings
from shared.store import Defaults, Store
from tests.api_client import client_on, record, result_of
from tests.fakes import settings_for
from tests.test_api_machines import alive


def now() -> int:
    """Milliseconds since the epoch: read by each test, because a whole run takes minutes."""
    return int(time.time() * 1000)


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def create(client: FlaskClient, **target: Any) -> str:
    answer = client.post("/status", json={"targets": [{"endpoint": "https://example.org/", **target}]})
    return str(answer.get_json()["data"]["targets"][0]["id"])


def text_of(page: str) -> str:
    """What a reader sees, with single spaces."""
    return " ".join(unescape(re.sub("<[^>]+>", " ", page)).split())


def test_without_targets_it_tells_how_to_add_one(client: FlaskClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    text = text_of(answer.text)
    assert "No target is watched yet" in text
    command = text.split("starts at once: ")[1]
    assert command.startswith("curl -X POST http://localhost/status \\ -H 'Content-Type: application/json' \\ -d '{")


def test_every_target_is_a_row(client: FlaskClient, redis: Redis) -> None:
    alive(redis, "checks", "emails", "housekeeping")
    up = create(client, title="Shop", endpoint="https://user:hunter2@shop.example/")
    down = create(client, title="Old & <b>bold</b>")
    create(client, title="New")
    record(redis, up, at=now() - 12_000)
    record(
        redis,
        down,
        Verdict.DOWN,
        at=now() - 5_000,
        status_code=None,
        reason=Reason.TIMEOUT,
        sentence="No answer in 5 s.",
    )
    page = client.get("/").text
    text = text_of(page)
    assert "Shop https://***@shop.example/ up 200 150 ms wait 80 ms" in text
    assert "Old & <b>bold</b> https://example.org/ No answer in 5 s. down timed out 150 ms" in text
    assert "New https://example.org/ pending not checked yet" in text
    assert "<b>bold" not in page
    assert "hunter2" not in page
    assert "all 3" in text
    assert "down 1" in text
    assert "<title>1 down" in page


def test_the_header_tells_the_truth_about_the_monitor(client: FlaskClient, redis: Redis) -> None:
    alive(redis, "checks", "emails", "housekeeping")
    record(redis, create(client), at=now() - 2_000)
    page = client.get("/").text
    text = text_of(page)
    assert re.search(r"workers alive 3 .*checking now 0 of 1 .*jobs waiting 1 .*scheduler's last tick \d s", text)
    assert re.search(r"newest result \d+ s", text)
    assert 'class="banner bad"' not in page
    assert "stale" not in page


def test_it_does_not_look_green_while_nothing_is_checked(client: FlaskClient, redis: Redis) -> None:
    record(redis, create(client), at=now() - 2_000)
    page = client.get("/").text
    text = text_of(page)
    assert 'class="banner bad"' in page
    assert 'class="stale"' in page
    assert "<title>Not checking" in page
    assert "no scheduler is running" in text
    assert "no worker is alive on the queue checks" in text
    assert "out of date" in text


def test_warnings_are_told(client: FlaskClient, redis: Redis) -> None:
    Store(redis).vitals.set_snapshot(error="the disk is full")
    page = client.get("/").text
    assert 'class="banner warning"' in page
    assert "the disk is full" in page


def test_a_filter_shows_one_status(client: FlaskClient, redis: Redis) -> None:
    record(redis, create(client, title="Broken"), Verdict.DOWN, status_code=500, reason=Reason.STATUS)
    create(client, title="Fresh")
    text = text_of(client.get("/?status=down").text)
    assert "Broken" in text
    assert "Fresh" not in text
    assert "No target is up." in text_of(client.get("/?status=up").text)


def test_a_slow_target_is_degraded_and_the_page_says_where_the_time_went(client: FlaskClient, redis: Redis) -> None:
    slow = create(client, title="Slow")
    for number in range(12):
        record(redis, slow, at=now() - 60_000 + number)
    why = "1,500 ms, slower than 500 ms"
    record(redis, slow, Verdict.DEGRADED, at=now() - 1_000, elapsed_ms=1_500.0, sentence=why)
    page = client.get("/").text
    text = text_of(page)
    assert f"Slow https://example.org/ {why} degraded 200 1500 ms wait 1430 ms" in text
    assert "wait 1430 ms wait 1.4 s, 95 % of the total, 18 x its usual" in text
    assert 'class="status degraded"' in page
    assert "degraded 1" in text
    assert "down · " not in page, "nothing is down"
    assert "Slow" in client.get("/?status=degraded").text
    assert "Slow" not in client.get("/?status=up").text


def test_what_was_wrong_is_told_only_while_it_is(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    record(redis, target, Verdict.UNKNOWN, status_code=None, reason=Reason.INTERNAL, sentence="No sockets are left.")
    assert "https://example.org/ No sockets are left. unknown could not be checked" in text_of(client.get("/").text)
    client.patch(f"/api/v1/targets/{target}", json={"paused": True})
    assert "No sockets are left" not in client.get("/").text


def test_a_failed_assertion_is_told_in_two_words(client: FlaskClient, redis: Redis) -> None:
    record(redis, create(client), Verdict.DOWN, reason=Reason.ASSERTION, sentence="The body does not contain it.")
    text = text_of(client.get("/").text)
    assert "The body does not contain it. down assertion failed" in text


def test_a_hundred_targets_are_a_page(client: FlaskClient) -> None:
    targets = [{"endpoint": f"https://example.org/{number:03}"} for number in range(250)]
    client.post("/status", json={"targets": targets})
    seen, path = [], "/"
    for _ in range(3):
        page = client.get(path).text
        seen += re.findall(r"<strong>(.*?)</strong>", page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = unescape(following.group(1)) if following else ""
    assert seen == [target["endpoint"] for target in targets]
    assert path == ""


@pytest.mark.parametrize("query", ["status=fine", "cursor=x", "page=2"])
def test_a_bad_query_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/?{query}").status_code == 422


def test_without_redis_the_page_says_so(tmp_path: Path) -> None:
    answer = client_on(f"unix://{tmp_path}/nobody.sock").get("/")
    assert answer.status_code == 503
    assert answer.mimetype == "text/html"
    assert "Redis does not answer" in text_of(answer.text)


@contextmanager
def counting_client(url: str) -> Iterator[tuple[FlaskClient, list[Any]]]:
    """A client of an app, and what that app sends to Redis."""
    sends: list[Any] = []

    class Counting(UnixDomainSocketConnection):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            sends.append(command)
            super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    with Redis.from_url(url, connection_class=Counting) as counted:
        yield create_app(Settings(_env_file=None, redis_url=url), counted).test_client(), sends


def test_a_page_of_many_asks_redis_no_more_often_than_a_page_of_few(
    client: FlaskClient, redis: Redis, valkey_url: str
) -> None:
    with counting_client(valkey_url) as (page, sends):
        create(client)
        page.get("/")
        sends.clear()
        page.get("/")
        few = len(sends)
        client.post("/status", json={"targets": [{"endpoint": f"https://example.org/{n}"} for n in range(99)]})
        sends.clear()
        page.get("/")
    assert len(sends) == few <= 30


def test_a_target_leads_to_its_page_and_says_what_its_status_does_not(client: FlaskClient, redis: Redis) -> None:
    doubted, calm = create(client, title="Doubted"), create(client, title="Calm")
    for target in (doubted, calm):
        record(redis, target, at=now() - 60_000)
    watched = Store(redis).targets.get(doubted)
    assert watched is not None
    opinions = Defaults.of(settings_for("redis://unused", second_opinion=True))
    failed = result_of(watched.target, Verdict.DOWN, status_code=None, reason=Reason.RESET)
    Store(redis).recording.record([(watched, failed)], opinions)
    window = {"title": "Upgrade", "targets": [doubted], "start": "2020-01-01T00:00:00Z"}
    client.post("/api/v1/maintenance", json={**window, "rrule": "FREQ=DAILY", "duration": 86_400})
    page = client.get("/").text
    assert "Doubted https://example.org/ up in doubt maintenance connection reset" in text_of(page)
    assert "Calm https://example.org/ up 200" in text_of(page)
    assert f'<a href="/targets/{calm}"><strong>Calm</strong></a>' in page


def test_open_incidents_are_counted_and_lead_to_theirs(client: FlaskClient, redis: Redis) -> None:
    assert '<dd><a href="/incidents">0</a></dd>' in client.get("/").text
    record(redis, create(client), Verdict.DOWN, status_code=500, reason=Reason.STATUS)
    assert '<dd><a href="/incidents">1</a></dd>' in client.get("/").text


def test_alerts_that_were_given_up_lead_to_the_outbox(client: FlaskClient, redis: Redis) -> None:
    assert "/outbox" not in client.get("/").text
    record(redis, create(client), Verdict.DOWN, status_code=500, reason=Reason.STATUS)
    outbox = Store(redis).outbox
    mail = outbox.claim("m1", now=now() + 1_000_000)
    assert mail is not None
    outbox.refused(mail, now=now(), error="550")
    page = client.get("/").text
    assert "could not be mailed and were given up · look, or send them again" in text_of(page)
    assert 'href="/outbox"' in page


def test_targets_that_are_overdue_are_named(client: FlaskClient, redis: Redis) -> None:
    late = create(client, title="Late")
    create(client, title="In time")
    redis.zadd("monitor:due", {late: now() - 5_000})
    page = client.get("/").text
    assert "1 target is overdue · Late" in text_of(page)
    assert f'overdue · <a href="/targets/{late}">Late</a>' in page


def test_the_trouble_that_people_were_told_of_is_told_once(client: FlaskClient, redis: Redis) -> None:
    def trouble(name: str, title: str, sentence: str) -> None:
        told = Alert(name, "trouble", "", title, "", now(), now() - 240_000, "", None, sentence=sentence)
        Store(redis).troubles.begin(name, told, boxes=(), now=now())

    trouble("scheduler", "no scheduler is running", "nothing is checked until one is started")
    trouble("queue", "the workers do not keep up", "12 batches <b>wait</b>")
    page = client.get("/").text
    assert text_of(page).count("no scheduler is running") == 1
    assert "the workers do not keep up since 4 min: 12 batches <b>wait</b>" in text_of(page)
    assert "<b>wait" not in page


def test_ages_are_short() -> None:
    ages = {None: "never", -5: "0 s", 4_900: "4 s", 60_000: "1 min", 3_600_000: "1 h 0 min", 11_100_000: "3 h 5 min"}
    ages[8 * 86_400_000] = "8 d"
    assert {age: ago(age) for age in ages} == ages


def test_latencies_are_short() -> None:
    assert [milliseconds(ms) for ms in (0.44, 9.96, 151.6, 12_345.0)] == ["0.4 ms", "10.0 ms", "152 ms", "12.3 s"]


def test_the_bar_of_phases_is_their_share() -> None:
    bar = phases({"wait": 60.0, "dns": 20.0, "transfer": 20.0})
    assert [(phase.name, phase.start, phase.width) for phase in bar] == [
        ("dns", 0, 20),
        ("wait", 20, 60),
        ("transfer", 80, 20),
    ]
    assert phases({}) == []
