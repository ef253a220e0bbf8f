"""Incidents over HTTP: the API, the pages, and the link of a mail that acknowledges."""

from __future__ import annotations

import re
import time
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from shared.links import acknowledge_url
from shared.store import Acknowledgement, Store
from tests.api_client import client_on, digest_of
from tests.incidents import BEGAN, TARGET, close_incident, closed_incident, expire, open_incident, tell
from tests.test_api_access import TOKEN, basic, bearer
from tests.test_api_pages import text_of

API = "/api/v1/incidents"
OTHER = "f" * 16
FOREIGN = [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}]


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def now() -> int:
    return int(time.time() * 1000)


def listed(client: FlaskClient, **query: Any) -> Any:
    answer = client.get(API, query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def ids(page: Any) -> list[str]:
    return [each["id"] for each in page["incidents"]]


def acknowledgement(redis: Redis, incident_id: str) -> Acknowledgement | None:
    found = Store(redis).incidents.get(incident_id)
    assert found is not None
    return found.acknowledged


# --- the API -------------------------------------------------------------------------------------------------------


def test_incidents_are_listed_newest_first(client: FlaskClient, redis: Redis) -> None:
    closed_incident(redis, 1)
    open_incident(redis, 2, at=BEGAN + 100_000)
    page = listed(client)
    assert (ids(page), page["total"], page["next_cursor"]) == ([f"{TARGET}-2", f"{TARGET}-1"], 2, None)
    assert page["incidents"][1] == {
        "id": f"{TARGET}-1",
        "target_id": TARGET,
        "title": "Shop",
        "endpoint": "https://shop.example/",
        "open": False,
        "opened_at": "2023-01-24T12:32:41.000Z",
        "detected_at": "2023-01-24T12:32:41.150Z",
        "confirmed_at": "2023-01-24T12:32:42.250Z",
        "closed_at": "2023-01-24T12:33:41.000Z",
        "duration_ms": 60_000,
        "flapping_at": None,
        "calm_at": None,
        "deleted": False,
        "reason": "status",
        "sentence": "The status code was 503 and not 200.",
        "by": "w2",
        "acknowledged": None,
    }


def test_cursors_lead_through_all_pages(client: FlaskClient, redis: Redis) -> None:
    made = [open_incident(redis, number, at=BEGAN + number // 3) for number in range(1, 8)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = listed(client, **query)
        seen += ids(page)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert len(seen) == 7
    assert set(seen) == set(made)


def test_a_list_is_of_a_state_a_target_and_a_time(client: FlaskClient, redis: Redis) -> None:
    over, lasts = closed_incident(redis, 1), open_incident(redis, 2, target=OTHER, at=BEGAN + 60_000)
    assert ids(listed(client, open="true")) == [lasts]
    assert ids(listed(client, open="false")) == [over]
    assert ids(listed(client, target=TARGET)) == [over]
    assert ids(listed(client, since="2023-01-24T12:33:41Z")) == [lasts]
    assert ids(listed(client, until="2023-01-24T13:33:41+01:00")) == [over]
    assert ids(listed(client, target=TARGET, open="true")) == []


@pytest.mark.parametrize(
    "query", ["open=yes", "open=1", "open=", "target=", "since=yesterday", "until=5", "cursor=c1", "limit=0", "page=2"]
)
def test_a_bad_question_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"{API}?{query}").status_code == 422


def test_one_incident_is_told_with_its_evidence_opinion_and_notifications(client: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis)
    tell(redis, incident_id, incident_id, refused={"old@example.org": "no such user"})
    found = client.get(f"{API}/{incident_id}").get_json()
    assert found["open"] is True
    assert found["duration_ms"] >= 1_000_000
    assert found["opinion"] == {
        "at": "2023-01-24T12:32:41.000Z",
        "ended": "2023-01-24T12:32:41.150Z",
        "reason": "timeout",
        "sentence": "No answer in 5 s.",
        "by": "w1",
    }
    assert found["notifications"] == [
        {
            "alert": incident_id,
            "channel": "mail",
            "kind": "down",
            "fate": "sent",
            "at": "2023-01-24T12:32:53.000Z",
            "recipients": ["ops@example.org"],
            "refused": {"old@example.org": "no such user"},
            "error": None,
            "next_at": None,
        }
    ]
    evidence = found["evidence"]
    assert (evidence["status_code"], evidence["bottleneck"], evidence["phases"]["wait"]) == (503, "wait", 175.0)
    assert evidence["answer"]["headers"][1] == {"name": "Set-Cookie", "value": "***"}
    assert evidence["changed"] == ["The server was Apache before."]


def test_an_incident_of_an_earlier_version_is_told_as_far_as_it_is_known(client: FlaskClient, redis: Redis) -> None:
    redis.hset("monitor:incident:old-1", mapping={"target": "old", "opened_at": BEGAN})
    found = client.get(f"{API}/old-1").get_json()
    assert (found["evidence"], found["opinion"], found["notifications"], found["title"]) == (None, None, [], None)
    assert client.get("/incidents/old-1").status_code == 200


def test_an_unknown_incident_is_not_found(client: FlaskClient) -> None:
    assert client.get(f"{API}/x").status_code == 404
    assert client.post(f"{API}/x/acknowledge", json={"by": "Ada"}).status_code == 404


def test_acknowledging_says_who_has_seen_it(client: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis)
    answer = client.post(f"{API}/{incident_id}/acknowledge", json={"by": "Ada", "note": "I am on it."})
    assert answer.status_code == 200
    told = answer.get_json()["acknowledged"]
    assert (told["by"], told["note"]) == ("Ada", "I am on it.")
    assert client.get(f"{API}/{incident_id}").get_json()["acknowledged"] == told
    assert not redis.exists("monitor:reminders")


def test_what_is_over_cannot_be_acknowledged(client: FlaskClient, redis: Redis) -> None:
    answer = client.post(f"{API}/{closed_incident(redis)}/acknowledge", json={"by": "Ada"})
    assert (answer.status_code, answer.get_json()["detail"]) == (409, "the incident is over")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"note": "x"},
        {"by": ""},
        {"by": " "},
        {"by": "x" * 101},
        {"by": "A\nB"},
        {"by": "A\u202eB"},
        {"by": None},
        {"by": 5},
        {"by": "Ada", "note": ""},
        {"by": "Ada", "note": "x" * 1001},
        {"by": "Ada", "note": "a\x00"},
        {"by": "Ada", "at": 5},
    ],
)
def test_a_bad_acknowledgement_is_refused_and_changes_nothing(client: FlaskClient, redis: Redis, body: Any) -> None:
    incident_id = open_incident(redis)
    before = digest_of(redis)
    assert client.post(f"{API}/{incident_id}/acknowledge", json=body).status_code == 422
    assert digest_of(redis) == before


# --- the pages -----------------------------------------------------------------------------------------------------


def test_the_page_has_the_open_ones_before_the_newest_others(client: FlaskClient, redis: Redis) -> None:
    open_incident(redis, 1, at=now() - 7_500_000, title="Old & <b>bold</b>")
    close_incident(redis, open_incident(redis, 2, at=now() - 125_000, title="Search"), at=now() - 5_000)
    page = client.get("/incidents").text
    text = text_of(page)
    assert "open 1" in text
    assert re.search(
        r"Old & <b>bold</b> https://shop.example/ The status code was 503 and not 200. open 503, expected 200 "
        r"2 h 5 min ago 2 h 5 min not yet Search .* ended 503, expected 200 2 min ago 2 min",
        text,
    )
    assert "<b>bold" not in page
    assert "<title>1 open" in page
    assert 'href="/incidents"' in client.get("/").text


def test_the_page_without_incidents_says_so(client: FlaskClient) -> None:
    assert "No incident" in text_of(client.get("/incidents").text)
    assert "Nothing is down" in text_of(client.get("/incidents?open=true").text)


@pytest.mark.parametrize(("lasting", "over"), [(3, 150), (130, 120), (100, 30)])
def test_a_hundred_are_a_page_and_links_lead_to_all_older_ones(
    client: FlaskClient, redis: Redis, lasting: int, over: int
) -> None:
    made = [open_incident(redis, number, at=BEGAN + number) for number in range(lasting)]
    closed = [closed_incident(redis, number, target=OTHER, at=BEGAN + number) for number in range(over)]
    if lasting <= 100:
        made += closed
    seen, path = [], "/incidents"
    while path:
        page = client.get(path).text
        shown = re.findall(r'href="/incidents/([^"]+)"', page)
        assert len(shown) <= 100
        seen += shown
        older = re.search(r'href="([^"]+)" rel="next"', page)
        path = unescape(older.group(1)) if older else ""
    assert len(seen) == len(set(seen))
    assert set(seen) == set(made)


def test_a_page_is_of_one_target(client: FlaskClient, redis: Redis) -> None:
    closed_incident(redis, 1)
    open_incident(redis, 1, target=OTHER, title="Blog")
    text = text_of(client.get(f"/incidents?target={TARGET}").text)
    assert "of Shop" in text
    assert "Blog" not in text


def test_an_incident_has_a_page_that_tells_what_happened(client: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis, flapping_at=BEGAN + 30_000)
    tell(redis, incident_id, incident_id)
    tell(redis, incident_id, f"webhook:{incident_id}", "given_up", error="HTTP 500")
    Store(redis).incidents.acknowledge(incident_id, by="Ada", note="I am <on> it.", now=BEGAN + 50_000)
    close_incident(redis, incident_id, at=BEGAN + 3_700_000)
    text = text_of(client.get(f"/incidents/{incident_id}").text)
    assert re.search(r"Shop ended https://shop.example/ The status code .* 1 h 1 min lasted", text) or re.search(
        r"Shop ended https://shop.example/ The status code .* lasted 1 h 1 min", text
    )
    assert (
        "2023-01-24 12:32:41 UTC The first check that failed began "
        "2023-01-24 12:32:41 UTC +0.1 s It failed, as w1 saw it No answer in 5 s. "
        "2023-01-24 12:32:42 UTC +1.2 s Confirmed by another check, as w2 saw it The status code was 503 and not 200. "
        "2023-01-24 12:33:11 UTC +30 s It began to flap"
    ) in text
    assert "+50 s Acknowledged by Ada I am <on> it. 2023-01-24 13:34:21 UTC +1 h 1 min It was good again" in text
    assert "wait 175 ms" in text
    assert "The server was Apache before." in text
    assert "down mail sent 2023-01-24 12:32:53 UTC ops@example.org" in text
    assert "down webhook given up 2023-01-24 12:32:53 UTC ops@example.org HTTP 500" in text
    assert "<form" not in client.get(f"/incidents/{incident_id}").text, "it is over"


def test_the_end_of_a_deleted_target_is_no_recovery(client: FlaskClient, redis: Redis) -> None:
    incident_id = closed_incident(redis, deleted=1)
    text = text_of(client.get(f"/incidents/{incident_id}").text)
    assert "The target was deleted" in text
    assert "It was good again" not in text


def test_an_incident_without_a_second_opinion_was_not_confirmed_by_another_check(
    client: FlaskClient, redis: Redis
) -> None:
    text = text_of(client.get(f"/incidents/{open_incident(redis, opinion=None)}").text)
    assert "It failed, as w2 saw it The status code was 503" in text
    assert "another check" not in text


def test_an_unknown_incident_has_a_page_that_says_so(client: FlaskClient) -> None:
    answer = client.get("/incidents/x")
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "There is no such incident" in text_of(answer.text)


def test_the_form_of_a_page_acknowledges_and_leads_back(client: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis)
    page = client.get(f"/incidents/{incident_id}")
    assert "form-action 'self'" in page.headers["Content-Security-Policy"]
    action = re.search(r'action="([^"]+)"', page.text)
    assert action
    answer = client.post(action.group(1), data={"by": " Ada ", "note": "first line\r\nsecond"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/incidents/{incident_id}")
    given = acknowledgement(redis, incident_id)
    assert given is not None
    assert (given.by, given.note) == ("Ada", "first line second")
    assert "Acknowledged by Ada" in text_of(client.get(f"/incidents/{incident_id}").text)


def test_who_leaves_the_name_out_is_named_by_the_sign_in(redis: Redis, valkey_url: str) -> None:
    client, incident_id = client_on(valkey_url, api_token=TOKEN), open_incident(redis)
    for headers, name in ((basic(TOKEN), "anyone"), (bearer(TOKEN), "someone who signed in")):
        assert client.post(f"/incidents/{incident_id}/acknowledge", data={}, headers=headers).status_code == 415
        answer = client.post(f"/incidents/{incident_id}/acknowledge", data={"by": ""}, headers=headers)
        assert answer.status_code == 303
        given = acknowledgement(redis, incident_id)
        assert given is not None
        assert given.by == name


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("by=Ada&by=Eve", 422),
        ("by=Ada&at=5", 422),
        ("by=%ff", 422),
        ("by=\xe9".encode("latin-1"), 422),
        ("by=A%E2%80%AEB", 422),
        ("by=" + "x" * 101, 422),
        ("by=a&" * 10, 422),
        ("by=" + "x" * 40_000, 413),
    ],
)
def test_a_bad_form_is_refused_and_changes_nothing(
    client: FlaskClient, redis: Redis, form: str | bytes, status: int
) -> None:
    incident_id = open_incident(redis)
    before = digest_of(redis)
    kind = "application/x-www-form-urlencoded"
    answer = client.post(f"/incidents/{incident_id}/acknowledge", data=form, content_type=kind)
    assert answer.status_code == status, answer.text
    for other in ("application/json", "multipart/form-data", f"{kind}; charset=latin-1"):
        assert client.post(f"/incidents/{incident_id}/acknowledge", data="by=x", content_type=other).status_code == 415
    assert digest_of(redis) == before


@pytest.mark.parametrize("path", ["/incidents", "/incidents/x", "/acknowledge?token=x"])
def test_without_redis_a_page_says_so(tmp_path: Path, path: str) -> None:
    answer = client_on(f"unix://{tmp_path}/nobody.sock").get(path)
    assert (answer.status_code, answer.mimetype) == (503, "text/html")
    assert "Redis does not answer" in text_of(answer.text)


def test_without_redis_a_link_acknowledges_nothing_and_says_so(tmp_path: Path) -> None:
    answer = client_on(f"unix://{tmp_path}/nobody.sock").post("/acknowledge", data={"token": "x"})
    assert (answer.status_code, answer.mimetype) == (503, "text/html")
    assert "Redis does not answer" in text_of(answer.text)


# --- the link of a mail --------------------------------------------------------------------------------------------


def token_for(redis: Redis, incident_id: str, *, age_ms: int = 0) -> str:
    url = acknowledge_url("https://monitor.example", Store(redis).link_secret(), incident_id, now=now() - age_ms)
    return url.partition("token=")[2]


def follow(client: FlaskClient, token: str) -> TestResponse:
    return client.get("/acknowledge", query_string={"token": token})


def press(client: FlaskClient, token: str, **more: Any) -> TestResponse:
    return client.post("/acknowledge", data={"token": token, **more.pop("fields", {})}, **more)


@pytest.fixture
def stranger(redis: Redis, valkey_url: str) -> FlaskClient:
    """Somebody who reads mail and has no token."""
    return client_on(valkey_url, api_token=TOKEN)


def test_the_link_names_the_incident_and_changes_nothing(stranger: FlaskClient, redis: Redis) -> None:
    token = token_for(redis, open_incident(redis))
    before = digest_of(redis)
    answer = follow(stranger, token)
    assert stranger.head("/acknowledge", query_string={"token": token}).status_code == 200
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert "Shop open https://shop.example/ The status code was 503 and not 200." in text_of(answer.text)
    assert f'name="token" value="{token}"' in answer.text
    assert digest_of(redis) == before


def test_the_button_behind_the_link_acknowledges(stranger: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis)
    answer = press(stranger, token_for(redis, incident_id), fields={"by": "Ada", "note": "I am on it."})
    assert answer.status_code == 200
    text = text_of(answer.text)
    assert "Acknowledged Nobody is reminded of this incident any more." in text
    assert "Acknowledged by Ada" in text
    given = acknowledgement(redis, incident_id)
    assert given is not None
    assert (given.by, given.note) == ("Ada", "I am on it.")


def test_a_name_may_be_left_out_of_the_form_of_a_link(stranger: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis)
    assert press(stranger, token_for(redis, incident_id)).status_code == 200
    given = acknowledgement(redis, incident_id)
    assert given is not None
    assert (given.by, given.note) == ("someone with the link from a mail", None)


def test_the_page_of_a_link_has_no_script_and_no_part_that_asks_for_the_token(
    stranger: FlaskClient, redis: Redis
) -> None:
    answer = follow(stranger, token_for(redis, open_incident(redis)))
    assert "<script" not in answer.text
    assert "style=" not in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "form-action 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    for link in re.findall(r'<link [^>]*href="([^"]+)"', answer.text):
        with stranger.get(link) as part:
            assert part.status_code == 200, link


def test_a_forged_or_old_link_is_refused_and_changes_nothing(stranger: FlaskClient, redis: Redis) -> None:
    incident_id = open_incident(redis)
    good = token_for(redis, incident_id)
    forged = acknowledge_url("https://monitor.example", b"x" * 32, incident_id, now=now()).partition("token=")[2]
    old = token_for(redis, incident_id, age_ms=7 * 86_400_000 + 5_000)
    before = digest_of(redis)
    for token in (forged, old, good[:-1], "x", "", "é"):
        for answer in (follow(stranger, token), press(stranger, token)):
            assert (answer.status_code, answer.mimetype) == (403, "text/html"), token
            assert "This link is not valid" in text_of(answer.text)
    assert stranger.get("/acknowledge").status_code == 403
    assert digest_of(redis) == before


def test_a_link_to_what_is_over_or_gone_says_so(stranger: FlaskClient, redis: Redis) -> None:
    over, gone = closed_incident(redis, 1), closed_incident(redis, 2)
    expire(redis, gone)
    for incident_id, seen, pressed in ((over, 200, 409), (gone, 404, 404)):
        token = token_for(redis, incident_id)
        answer = follow(stranger, token)
        assert answer.status_code == seen
        assert "<form" not in answer.text
        assert press(stranger, token).status_code == pressed
    assert acknowledgement(redis, over) is None


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_press_the_button(stranger: FlaskClient, redis: Redis, headers: dict[str, str]) -> None:
    incident_id = open_incident(redis)
    token = token_for(redis, incident_id)
    assert press(stranger, token, headers=headers).status_code == 403
    assert stranger.get("/acknowledge", query_string={"token": token}, headers=headers).status_code == 200
    assert acknowledgement(redis, incident_id) is None


def test_without_a_token_of_the_api_a_link_works_on_known_hosts_only(client: FlaskClient, redis: Redis) -> None:
    token = token_for(redis, open_incident(redis))
    evil = {"Host": "evil.example"}
    assert client.get("/acknowledge", query_string={"token": token}, headers=evil).status_code == 403
    assert press(client, token, headers=evil).status_code == 403
    assert follow(client, token).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", API), ("GET", "/incidents"), ("GET", "/incidents/x"), ("POST", "/incidents/x/acknowledge")],
)
def test_a_link_opens_no_other_door(stranger: FlaskClient, method: str, path: str) -> None:
    assert stranger.open(path, method=method).status_code == 401


@pytest.mark.parametrize("path", [f"{API}/x/acknowledge", "/incidents/x/acknowledge"])
@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_acknowledge(client: FlaskClient, path: str, headers: dict[str, str]) -> None:
    assert client.post(path, headers=headers, json={"by": "Eve"}).status_code == 403
