"""Who may call: the table of routes, the token, and requests that other sites send."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from werkzeug.routing import Rule

from api.access import ROUTES, Asks
from tests.api_client import GOOGLE, app_on, client_on

TOKEN = "correct horse battery"


@pytest.fixture
def app(redis: Redis, valkey_url: str) -> Flask:
    return app_on(valkey_url, api_token=TOKEN)


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def path_of(rule: Rule) -> str:
    """A path that leads to the rule."""
    values: dict[str, Any] = {"instance_number": 0, "per_page": 8, "page": 1, "order": "asc", "registry_name": "queued"}
    return "".join(str(values.get(text, "x")) if is_dynamic else text for is_dynamic, text in rule._trace).lstrip("|")


def test_the_table_names_every_route_and_method(app: Flask) -> None:
    routes = {
        rule.rule: {method for method in rule.methods or () if method not in ("HEAD", "OPTIONS")}
        for rule in app.url_map.iter_rules()
    }
    for rule in app.url_map.iter_rules():
        routes[rule.rule] |= {method for method in rule.methods or () if method not in ("HEAD", "OPTIONS")}
    assert {rule: set(asks) for rule, asks in ROUTES.items()} == routes


def test_a_route_outside_of_the_table_is_closed(redis: Redis, valkey_url: str) -> None:
    app = app_on(valkey_url)
    app.add_url_rule("/forgotten", "forgotten", lambda: "hello")
    assert app.test_client().get("/forgotten").status_code == 405


def test_with_a_token_strangers_are_answered_where_the_table_says_so_only(app: Flask) -> None:
    client = app.test_client()
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD"}:
            answer = client.open(path_of(rule), method=method)
            is_open = ROUTES[rule.rule].get(method) in (Asks.NOTHING, Asks.LINK)
            assert (answer.status_code != 401) is is_open, (rule.rule, method)
            if not is_open:
                assert [value.split()[0] for value in answer.headers.getlist("WWW-Authenticate")] == ["Basic", "Bearer"]
    assert client.get("/nowhere").status_code == 401
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    strangers = {rule for rule, asks in ROUTES.items() if {Asks.NOTHING, Asks.LINK} & set(asks.values())}
    assert strangers == {"/livez", "/readyz", "/static/<path:filename>", "/acknowledge"}


@pytest.mark.parametrize("headers", [bearer(TOKEN), basic(TOKEN)], ids=["bearer", "basic"])
def test_the_token_opens_the_door(app: Flask, headers: dict[str, str]) -> None:
    client = app.test_client()
    assert client.post("/status", json={"targets": [GOOGLE]}, headers=headers).status_code == 201
    for path in ("/", "/status", "/rq/", "/metrics", "/docs", "/openapi.json", "/static/monitor.css"):
        with client.get(path, headers=headers) as answer:
            assert answer.status_code == 200, path


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong"),
        bearer(""),
        bearer(TOKEN[:-1]),
        basic("wrong"),
        basic(""),
        bearer("é"),
        {"Authorization": TOKEN},
        {"Authorization": "Basic ?"},
        {"Authorization": f"Digest {TOKEN}"},
        {"X-Token": TOKEN},
    ],
)
def test_anything_else_does_not(app: Flask, headers: dict[str, str]) -> None:
    assert app.test_client().get("/status", headers=headers).status_code == 401


# --- without a token ---


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "LOCALHOST",
        "127.0.0.1",
        "127.8.9.1:80",
        "[::1]",
        "[::1]:5000",
        "monitor.example",
        "Monitor.Example:5000",
        "other.example:81",
    ],
)
def test_loopback_and_configured_hosts_are_answered(redis: Redis, valkey_url: str, host: str) -> None:
    client = client_on(valkey_url, api_allowed_hosts=("monitor.example", "other.example:81"))
    assert client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "other.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "1",
        "[::ffff:8.8.8.8]",
        "localhost@evil.example",
        "evil.example:5000",
        "monitor.example.evil",
    ],
)
def test_any_other_host_is_refused(redis: Redis, valkey_url: str, host: str) -> None:
    client = client_on(valkey_url, api_allowed_hosts=("monitor.example", "other.example:81"))
    for path in ("/status", "/", "/livez", "/rq/", "/nowhere"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 403, path
        assert answer.is_json


def test_with_a_token_any_host_will_do(app: Flask) -> None:
    answer = app.test_client().get("/status", headers={"Host": "monitor.example", **bearer(TOKEN)})
    assert answer.status_code == 404


# --- other sites ---

CHANGES = [
    ("POST", "/status"),
    ("POST", "/status/queue"),
    ("GET", "/emails"),
    ("POST", "/emails"),
    ("POST", "/api/v1/targets"),
    ("PATCH", "/api/v1/targets/x"),
    ("DELETE", "/api/v1/targets/x"),
    ("POST", "/api/v1/outbox/x/retry"),
    ("POST", "/rq/job/x/delete"),
    ("POST", "/rq/queue/checks/compact"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": origin} for origin in ("http://evil.example", "null", "http://localhost:81", "https://localhost.evil")]
    + [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site")],
    ids=lambda headers: next(iter(headers.values())),
)
def test_what_another_site_sent_changes_nothing(
    redis: Redis, valkey_url: str, method: str, path: str, headers: dict[str, str]
) -> None:
    client = client_on(valkey_url, mail_recipients=("ops@example.org",))
    answer = client.open(path, method=method, headers=headers, json={"targets": [GOOGLE]})
    assert answer.status_code == 403
    assert redis.dbsize() == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Origin": "https://localhost"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_programs_and_our_own_pages_may_change_things(redis: Redis, valkey_url: str, headers: dict[str, str]) -> None:
    answer = client_on(valkey_url).post("/status", headers=headers, json={"targets": [GOOGLE]})
    assert answer.status_code == 201


def test_reading_is_not_refused_to_a_link_from_elsewhere(redis: Redis, valkey_url: str) -> None:
    client = client_on(valkey_url)
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_every_answer_carries_the_headers_of_safety(redis: Redis, valkey_url: str) -> None:
    client = client_on(valkey_url)
    for path in ("/", "/status", "/docs", "/rq/", "/nowhere", "/livez", "/static/monitor.css", "/openapi.json"):
        with client.get(path) as answer:
            headers = answer.headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Referrer-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "http:" not in policy
        assert "https:" not in policy
        if not path.startswith("/static"):
            assert headers["Cache-Control"] == "no-store", path


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_have_no_inline_script_and_allow_none(redis: Redis, valkey_url: str, path: str) -> None:
    answer = client_on(valkey_url).get(path)
    scripts = answer.headers["Content-Security-Policy"].split("script-src ")[1].split(";")[0]
    assert scripts == "'self'"
    assert answer.text.count("<script") == answer.text.count("<script src=")
    assert "style=" not in answer.text
