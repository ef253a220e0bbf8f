"""The page of one target, its pictures and its buttons; and the page of the outbox."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec.structs import replace
from redis import Redis

from api.checks import MOST_A_MINUTE
from api.pages.pictures import chart, share, uptime
from shared.links import target_url
from shared.monitor import Alert, AnswerSeen, Attempt, Reason, Verdict
from shared.state import Status
from shared.store import Defaults, Mail, Store, Watched
from tests.api_client import ANSWER, client_on, create, digest_of, job_ids, record, result_of
from tests.fakes import settings_for
from tests.incidents import closed_incident, open_incident
from tests.test_api_access import TOKEN, bearer
from tests.test_api_pages import counting_client, now, text_of

WITH_OPINIONS = Defaults.of(settings_for("redis://unused", alert_group_wait=0, second_opinion=True))
HOSTILE = "<script>alert(1)</script>\"'<b>&amp;{{ 7 * 7 }}"
FOREIGN = [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}]


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url, mail_recipients=("ops@example.org",))


def watched(redis: Redis, target_id: str) -> Watched:
    found = Store(redis).targets.get(target_id)
    assert found is not None
    return found


def fail(redis: Redis, target_id: str, **result: Any) -> None:
    """One failed check, with everything that is kept of it."""
    known = {"status_code": 503, "reason": Reason.STATUS, "sentence": "The status code was 503 and not 200."}
    record(redis, target_id, Verdict.DOWN, **{"answer": ANSWER, **known, **result})


def page_of(client: FlaskClient, target_id: str) -> str:
    answer = client.get(f"/targets/{target_id}")
    assert answer.status_code == 200, answer.text
    return answer.text


# --- what it tells -------------------------------------------------------------------------------------------------


def test_a_page_without_any_result_says_that_the_first_is_on_its_way(client: FlaskClient) -> None:
    target = create(client, title="Fresh")["id"]
    page = page_of(client, target)
    text = text_of(page)
    assert "Fresh pending https://example.org/" in text
    assert "There is none yet; the first one is on its way." in text
    assert "last checked never last response not checked yet" in text
    assert text.count("no check yet") == 2
    assert text.count("None is known.") == 2
    assert '<figure class="chart">' not in page


def test_mails_link_to_the_page(client: FlaskClient) -> None:
    url = target_url("http://localhost", create(client, title="Shop")["id"])
    assert "<title>Shop · pending · http-monitoring</title>" in client.get(url).text


def test_whoever_was_woken_up_finds_what_is_wrong(client: FlaskClient, redis: Redis) -> None:
    target = create(client, title="Shop", tags=["production"], recipients=["anna@example.org"])["id"]
    record(redis, target, at=now() - 60_000, answer=replace(ANSWER, headers=(("Content-Type", "application/json"),)))
    fail(redis, target, at=now() - 5_000)
    page = page_of(client, target)
    text = text_of(page)
    assert "Shop down https://example.org/ The status code was 503 and not 200. production" in text
    assert re.search(r"down for [0-9] s last checked [0-9] s ago last response 503 latency 150 ms", text)
    assert f"/incidents/{watched(redis, target).state.incident}" in page
    assert "content-type was application/json and is text/html" in text
    assert "2 headers of the answer Content-Type: text/html Set-Cookie: ***" in text
    assert "The body, as far as it was kept <h1>Hello</h1>" in text
    assert "Redirects https://example.org/login" in text
    assert "Certificate CN=example.org, until 2023-11-14 22:13:20 UTC" in text
    assert "wait 80 ms" in text
    assert "Mails go to ops@example.org, anna@example.org" in text
    assert "50 % 1 of 2 checks failed" in text


def test_one_failure_waits_for_a_second_opinion(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    record(redis, target, at=now() - 60_000)
    found = watched(redis, target)
    result = result_of(found.target, Verdict.DOWN, reason=Reason.RESET, sentence="Reset.", status_code=None)
    Store(redis).recording.record([(found, result)], WITH_OPINIONS)
    text = text_of(page_of(client, target))
    assert "https://example.org/ up in doubt" in text
    assert "1 failed check; a second opinion is on its way" in text
    record(redis, target)
    assert "in doubt" not in page_of(client, target)


def test_flapping_maintenance_and_a_parent_that_is_down_are_told(client: FlaskClient, redis: Redis) -> None:
    parent = create(client, title="Router", endpoint="https://router.example/")["id"]
    target = create(client, title="Shop", parent=parent)["id"]
    for number in range(8):
        record(redis, target, Verdict.DOWN if number % 2 else Verdict.UP, at=now() - 60_000 + number * 1_000)
    fail(redis, parent)
    window = {"title": "Upgrade", "targets": [target], "start": "2020-01-01T00:00:00Z"}
    client.post("/api/v1/maintenance", json={**window, "rrule": "FREQ=DAILY", "duration": 86_400})
    page = page_of(client, target)
    text = text_of(page)
    assert "Shop down flapping maintenance" in text
    assert "mails of that are held back until it has been calm for 1 h 0 min" in text
    assert "Maintenance “Upgrade” until " in text
    assert "nobody is told of this one meanwhile · Router" in text
    assert f'behind <a href="/targets/{parent}">Router</a>' in page


def test_nothing_looks_green_when_the_newest_result_is_too_old(client: FlaskClient, redis: Redis) -> None:
    target = create(client, interval=5)["id"]
    record(redis, target, at=now() - 3_600_000)
    page = page_of(client, target)
    assert '<div class="stale">' in page
    assert "No result is as new as it should be: one is due every 5 s" in text_of(page)
    for is_paused in (True, False):
        client.patch(f"/api/v1/targets/{target}", json={"paused": is_paused})
        assert '<div class="stale">' not in page_of(client, target), "resumed, it waits for its first check"


def test_every_attempt_of_the_newest_check_is_told(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    found = watched(redis, target)
    result = result_of(found.target)
    first = Attempt(result.started_at, 30.0, {"dns": 30.0}, reason=Reason.TIMEOUT, phase="connect")
    result = replace(result, attempts=(first, *result.attempts))
    Store(redis).recording.record([(found, result)], WITH_OPINIONS)
    text = text_of(page_of(client, target))
    assert "Its 2 attempts" in text
    assert "timed out, at connect 30 ms" in text


def test_incidents_are_linked_and_only_the_newest_ten(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    for number in range(1, 12):
        closed_incident(redis, number, target=target, at=now() - 86_400_000 + number * 1_000)
    open_incident(redis, 12, target=target, at=now())
    page = page_of(client, target)
    assert re.findall(r'href="/incidents/([^"]+)"', page) == [f"{target}-{number}" for number in range(12, 2, -1)]
    assert "all of them" in page


def test_only_the_newest_failures_are_on_the_page(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    for number in range(12):
        fail(redis, target, at=now() - 60_000 + number, sentence=f"Failure {number}.")
    page = page_of(client, target)
    assert page.count('class="failure"') == 10
    assert "the newest 10 of 12 that are kept" in text_of(page)
    assert f"/api/v1/targets/{target}/failures" in page


def test_an_unknown_target_has_a_page_that_says_so(client: FlaskClient) -> None:
    for target in ("0123456789abcdef", "x" * 5_000, "%3Cscript%3E"):
        answer = client.get(f"/targets/{target}")
        assert answer.status_code == 404
        assert answer.mimetype == "text/html"
        assert "There is no such target" in text_of(answer.text)
        assert "<script>" not in answer.text


def test_the_trouble_of_the_monitor_is_told_on_the_page(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    trouble(redis, "no scheduler is running")
    assert "The monitor itself: no scheduler is running since 4 min" in text_of(page_of(client, target))


def trouble(redis: Redis, title: str) -> None:
    told = Alert("t", "trouble", "", title, "", now(), now() - 240_000, "", None, sentence="nothing is checked")
    Store(redis).troubles.begin("scheduler", told, boxes=(), now=now())


# --- what it must not do -------------------------------------------------------------------------------------------


def test_hostile_texts_stay_texts(client: FlaskClient, redis: Redis) -> None:
    target = create(client, title=HOSTILE, tags=["<i>tag</i>"])["id"]
    hostile = AnswerSeen(headers=(("X-Evil", HOSTILE),), body=HOSTILE, redirects=(HOSTILE,), body_bytes=9)
    record(redis, target, at=now() - 60_000)
    fail(redis, target, sentence=HOSTILE, answer=hostile)
    open_incident(redis, 9, target=target, title=HOSTILE, sentence=HOSTILE)
    for path in (f"/targets/{target}", "/", "/outbox"):
        page = client.get(path).text
        assert "<script>" not in page, path
        assert "<b>&" not in page, path
        assert "<i>tag" not in page, path
    assert text_of(client.get(f"/targets/{target}").text).count("{{ 7 * 7 }}") >= 5


def test_no_secret_is_shown(client: FlaskClient, redis: Redis) -> None:
    secret = {"auth": {"type": "bearer", "token": "hunter2"}, "body": {"type": "text", "content": "hunter2"}}
    target = create(client, title="A", endpoint="https://example.org/?token=hunter2", method="POST", **secret)["id"]
    headers = {"X-Api-Key": "hunter2"}
    more = create(client, endpoint="https://me:hunter2@example.org/", parent=target, headers=headers)
    fail(redis, target)
    fail(redis, more["id"])
    for path in (f"/targets/{target}", f"/targets/{more['id']}", "/", "/outbox"):
        assert "hunter2" not in client.get(path).text, path


def test_the_policy_allows_no_inline_script_and_no_inline_style(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    record(redis, target, at=now() - 60_000)
    fail(redis, target)
    for path in (f"/targets/{target}", "/targets/unknown", "/outbox"):
        answer = client.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.text.count("<script") == answer.text.count("<script src=") == 1
        assert "style=" not in answer.text
        assert not re.search(r"\son[a-z]+=", answer.text)
        assert ("form-action 'self'" in policy) is ("<form" in answer.text or path == "/outbox")


def test_a_page_of_much_asks_redis_no_more_often_than_a_page_of_little(
    client: FlaskClient, redis: Redis, valkey_url: str
) -> None:
    parent = create(client, title="Router", endpoint="https://router.example/")["id"]
    target = create(client, title="Shop", parent=parent)["id"]
    open_incident(redis, 900, target=target)
    with counting_client(valkey_url) as (page, sends):
        page.get(f"/targets/{target}")
        sends.clear()
        page.get(f"/targets/{target}")
        few = len(sends)
        for number in range(120):
            fail(redis, target, at=now() - 600_000 + number * 1_000)
            closed_incident(redis, number, target=target, at=now() - 86_400_000 + number)
        sends.clear()
        text = page.get(f"/targets/{target}").text
    assert text.count('class="bar"') == 50, "of 120 results"
    assert len(sends) <= few <= 15


def test_without_redis_the_pages_say_so(tmp_path: Path) -> None:
    client = client_on(f"unix://{tmp_path}/nobody.sock")
    for path in ("/targets/x", "/outbox"):
        for answer in (client.get(path), client.post(path, data={"do": "check"} if "targets" in path else {"id": "x"})):
            assert answer.status_code == 503
            assert "Redis does not answer" in text_of(answer.text)


# --- its buttons ---------------------------------------------------------------------------------------------------


def test_check_now_puts_a_check_before_all_others_and_waits_for_it(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    before = len(job_ids(redis))
    answer = client.post(f"/targets/{target}", data={"do": "check"})
    assert answer.status_code == 303
    assert len(job_ids(redis)) == before + 1
    there = answer.headers["Location"]
    page = client.get(there).text
    assert "data-soon" in page
    assert "A check was asked for" in page
    record(redis, target, at=now() + 5)
    assert "data-soon" not in client.get(there).text


def test_what_was_asked_for_long_ago_is_not_waited_for(client: FlaskClient) -> None:
    target = create(client)["id"]
    assert "data-soon" not in client.get(f"/targets/{target}?asked={now() - 3_600_000}").text
    assert client.get(f"/targets/{target}?asked=yesterday").status_code == 422
    assert client.get(f"/targets/{target}?other=1").status_code == 422


def test_pause_and_resume_change_places(client: FlaskClient, redis: Redis) -> None:
    target = create(client)["id"]
    assert client.post(f"/targets/{target}", data={"do": "pause"}).headers["Location"] == f"/targets/{target}"
    assert watched(redis, target).state.status is Status.PAUSED
    page = page_of(client, target)
    assert 'value="resume"' in page
    assert 'value="check"' not in page
    assert "It is paused: nobody checks it until it is resumed" in page
    before = len(job_ids(redis))
    assert client.post(f"/targets/{target}", data={"do": "resume"}).status_code == 303
    assert watched(redis, target).state.status is Status.PENDING
    assert len(job_ids(redis)) == before + 1, "its first check starts at once"


def test_what_cannot_be_done_is_told_on_the_page(client: FlaskClient) -> None:
    target = create(client, paused=True)["id"]
    answer = client.post(f"/targets/{target}", data={"do": "check"})
    assert answer.status_code == 409
    assert "That was not done: the target is paused." in text_of(answer.text)
    for deed in ("check", "pause", "resume"):
        assert client.post("/targets/unknown", data={"do": deed}).status_code == 404


def test_checks_by_hand_are_as_few_as_those_of_the_api(client: FlaskClient) -> None:
    target = create(client)["id"]
    for _ in range(MOST_A_MINUTE):
        client.post(f"/targets/{target}", data={"do": "check"})
    answer = client.post(f"/targets/{target}", data={"do": "check"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "That was not done" in answer.text
    assert client.post(f"/api/v1/targets/{target}/check").status_code == 429


@pytest.mark.parametrize(
    ("form", "status"), [({}, 422), ({"do": "delete"}, 422), ({"do": "check", "more": "x"}, 422), ("{}", 415)]
)
def test_a_bad_form_is_refused_and_changes_nothing(client: FlaskClient, redis: Redis, form: Any, status: int) -> None:
    target = create(client)["id"]
    before = digest_of(redis)
    kind = "application/json" if isinstance(form, str) else "application/x-www-form-urlencoded"
    assert client.post(f"/targets/{target}", data=form, content_type=kind).status_code == status
    assert digest_of(redis) == before


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_press_a_button(client: FlaskClient, redis: Redis, headers: dict[str, str]) -> None:
    target = create(client)["id"]
    before = digest_of(redis)
    assert client.post(f"/targets/{target}", data={"do": "pause"}, headers=headers).status_code == 403
    assert client.post("/outbox", data={"id": ""}, headers=headers).status_code == 403
    assert digest_of(redis) == before


def test_a_stranger_sees_nothing_and_changes_nothing(redis: Redis, valkey_url: str) -> None:
    client = client_on(valkey_url, api_token=TOKEN)
    made = client.post("/api/v1/targets", json={"endpoint": "https://example.org/"}, headers=bearer(TOKEN))
    path = f"/targets/{made.get_json()['id']}"
    for answer in (client.get(path), client.post(path, data={"do": "pause"}), client.get("/outbox")):
        assert answer.status_code == 401
    assert client.get(path, headers=bearer(TOKEN)).status_code == 200


# --- its pictures --------------------------------------------------------------------------------------------------


def result(elapsed_ms: float, verdict: Verdict = Verdict.UP, at: int = 1_674_563_561_000) -> dict[str, Any]:
    known = {"started_at": at, "elapsed_ms": elapsed_ms, "verdict": verdict, "status_code": 200}
    return {**known, "reason": None, "sentence": None}


def test_a_failure_that_took_long_does_not_flatten_the_others() -> None:
    picture = chart([result(10_000, Verdict.DOWN), result(100), result(50)], usual_ms=50)
    assert picture is not None
    assert [(each.kind, each.height) for each in picture.columns] == [("up", 45), ("up", 90), ("down", 90)]
    assert (picture.top, picture.usual_y) == ("100 ms", 45)
    assert [each.x for each in picture.columns] == [564, 576, 588], "the newest stands at the right"


def test_a_picture_of_fifty_fits_and_one_of_nothing_is_none() -> None:
    picture = chart([result(0.0)] * 50, usual_ms=None)
    assert picture is not None
    assert min(each.x for each in picture.columns) == 0
    assert all(each.height > 0 for each in picture.columns)
    assert chart([], usual_ms=5.0) is None
    failed = chart([result(80, Verdict.DOWN)], usual_ms=None)
    assert failed is not None
    assert failed.columns[0].height == 90


def test_one_failure_in_a_million_is_not_a_hundred_percent() -> None:
    assert share([(7, 999_999, 1, 0, 0)], 7, 24) == "99.99 %"
    assert share([(7, 5, 0, 3, 0)], 7, 24) == "100 %"
    assert share([(7, 0, 5, 0, 0)], 7, 24) == "0 %"
    assert share([(7, 0, 0, 5, 0)], 7, 24) == "", "what is unknown counts nothing"


def test_uptime_is_of_the_span_alone_and_has_a_cell_for_each_part_of_it() -> None:
    rows = [(76, 0, 9, 0, 0), (77, 9, 0, 0, 0), (99, 1, 1, 0, 0), (100, 9, 1, 0, 0)]
    found = uptime("24 hours", rows, 100, 24, 3_600_000)
    assert [cell.kind for cell in found.cells] == ["up", *["none"] * 21, "down", "degraded"]
    assert (found.share, found.failed) == ("90.47 %", "2 of 21 checks failed")


# --- the outbox ----------------------------------------------------------------------------------------------------


def give_up(redis: Redis) -> Mail:
    """What waits in the outbox is refused by a server."""
    outbox = Store(redis).outbox
    mail = outbox.claim("m1", now=now() + 1_000_000)
    assert mail is not None
    outbox.refused(mail, now=now(), error="550 no such mailbox <b>")
    return mail


def test_the_outbox_sends_one_alert_again_or_all(client: FlaskClient, redis: Redis) -> None:
    targets = [create(client, endpoint=f"https://example.org/{number}", title=f"Shop {number}") for number in range(3)]
    for target in targets:
        fail(redis, target["id"])
    mail = give_up(redis)
    page = client.get("/outbox").text
    assert "Shop 0 https://example.org/0 The status code was 503 and not 200. down" in text_of(page)
    assert "550 no such mailbox <b>" in text_of(page)
    assert f'href="/targets/{targets[0]["id"]}"' in page
    assert client.post("/outbox", data={"id": mail.entries[0]}).status_code == 303
    assert (Store(redis).outbox.counts().waiting, Store(redis).outbox.counts().dead) == (1, 2)
    assert client.post("/outbox", data={"id": "gone-1"}).status_code == 303
    assert client.post("/outbox", data={"id": ""}).status_code == 303
    assert (Store(redis).outbox.counts().waiting, Store(redis).outbox.counts().dead) == (3, 0)
    assert "Nothing was given up" in text_of(client.get("/outbox").text)
