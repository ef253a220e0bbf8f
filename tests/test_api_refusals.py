"""What is refused: how, in which shape, without any change, and without giving a secret away."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api import strict_json
from api.errors import shown
from tests.api_client import GOOGLE, app_on, client_on, digest_of, record

BAD_INPUTS = [
    json.loads(line) for line in Path(__file__, "../data/bad_inputs.jsonl").resolve().read_text("utf-8").splitlines()
]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def body_of(case: dict[str, Any]) -> bytes:
    if "raw_body_gen" in case:
        parts = case["raw_body_gen"]
        return bytes(parts["prefix"] + parts["unit"] * parts["count"] + parts["suffix"], "utf-8")
    if "raw_body_b64" in case:
        return base64.b64decode(case["raw_body_b64"])
    if "raw_body" in case:
        return str(case["raw_body"]).encode()
    return json.dumps(case["body"]).encode()


@pytest.mark.parametrize("case", BAD_INPUTS, ids=[case["name"] for case in BAD_INPUTS])
def test_a_bad_input_is_refused_and_changes_nothing(client: FlaskClient, redis: Redis, case: dict[str, Any]) -> None:
    [target] = client.post("/status", json={"targets": [GOOGLE]}).get_json()["data"]["targets"]
    record(redis, target["id"])
    before = digest_of(redis)
    answer = client.open(case["path"], method=case["method"], headers=case["headers"], data=body_of(case))
    assert answer.status_code in case["expected_status"], answer.text
    assert digest_of(redis) == before
    body = answer.get_json()
    assert list(body) == ["category", "data", "message"]
    assert body["category"] == "error"
    assert body["data"]["errors"]
    assert all(list(error) == ["loc", "msg"] for error in body["data"]["errors"])
    assert len(answer.text) < 10_000, "no body is echoed as a whole"


def test_one_bad_target_refuses_all_and_is_named_by_its_index(client: FlaskClient, redis: Redis) -> None:
    before = digest_of(redis)
    targets = [GOOGLE, GOOGLE, GOOGLE, {"endpoint": "ftp://example.org/"}]
    answer = client.post("/status", json={"targets": targets})
    assert answer.status_code == 422
    [error] = answer.get_json()["data"]["errors"]
    assert error["loc"] == ["targets", 3, "endpoint"]
    assert error["msg"] == 'targets[3].endpoint must begin with http:// or https:// (it is "ftp://example.org/")'
    assert digest_of(redis) == before


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://user:hunter2@example.org/",
        "http://user:hunter2@127.0.0.1\\@example.com/",
        "user:hunter2@example.org",
        "https://user:hunter2@example.org:99999/",
        "https://example.org:0/?token=hunter2",
        "example.org/?key=hunter2",
        "http://user:hunter2@host://x/",
        "user:hunter2@x://host/",
        "http://a b/?password=hunter2",
    ],
)
def test_a_message_never_shows_a_secret(client: FlaskClient, endpoint: str) -> None:
    for answer in (
        client.post("/status", json={"targets": [{"endpoint": endpoint}]}),
        client.post("/status", json={"targets": [{"endpoint": 5, endpoint: 5}]}),
        client.post("/api/v1/targets", json={"endpoint": endpoint}),
        client.get("/status", query_string={endpoint: "1"}),
        client.get("/status", query_string={"limit": endpoint}),
        client.get(f"/nothing/{endpoint}"),
    ):
        assert answer.status_code in (404, 422)
        assert "hunter2" not in answer.text


def test_values_are_shown_short_and_escaped() -> None:
    assert shown("x" * 100) == '"' + "x" * 59 + '..."'
    assert shown("a\r\nb") == '"a\\r\\nb"'
    assert shown({"password": "hunter2"}) == "an object"
    assert shown(["hunter2"]) == "a list"
    assert shown(None) == "null"
    assert shown(2.5) == "2.5"


def test_many_errors_are_counted_and_not_all_told(client: FlaskClient) -> None:
    answer = client.post("/status", json={"targets": [{"endpoint": "x"}] * 500})
    assert len(answer.get_json()["data"]["errors"]) == 20
    assert "and 499 more" in answer.get_json()["message"]


def test_a_json_string_that_holds_json_is_not_an_object(client: FlaskClient) -> None:
    answer = client.post("/status", data=json.dumps(json.dumps({"targets": [GOOGLE]})), headers=JSON)
    assert answer.status_code == 422


def test_a_long_body_without_a_length_is_refused_before_it_is_read(client: FlaskClient) -> None:
    class Endless:
        """A client that never stops sending; it counts what was taken."""

        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0, "read without a bound"
            self.taken += size
            return b" " * size

    body = Endless()
    answer = client.post(
        "/status",
        headers=JSON,
        environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    assert answer.status_code == 413
    assert body.taken < 3 * 1024 * 1024


def test_unknown_paths_and_methods_are_told_in_json(client: FlaskClient) -> None:
    answer = client.get("/nowhere")
    assert (answer.status_code, answer.get_json()["category"]) == (404, "error")
    answer = client.delete("/status")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


def test_problems_under_api_v1_follow_rfc_9457(client: FlaskClient) -> None:
    answer = client.get("/api/v1/targets/unknown")
    assert answer.status_code == 404
    assert answer.mimetype == "application/problem+json"
    assert answer.get_json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": 'there is no target "unknown"',
        "errors": [{"loc": [], "msg": 'there is no target "unknown"'}],
    }
    assert client.get("/api/v1/nothing").mimetype == "application/problem+json"
    assert client.put("/api/v1/targets").mimetype == "application/problem+json"


def test_a_bug_of_ours_shows_no_trace(redis: Redis, valkey_url: str) -> None:
    app = app_on(valkey_url)

    def fail() -> str:
        raise ZeroDivisionError("inner secret")

    app.view_functions["page"] = fail
    app.logger.disabled = True
    answer = app.test_client().get("/")
    assert answer.status_code == 500
    assert answer.get_json()["category"] == "error"
    assert "ZeroDivision" not in answer.text
    assert "secret" not in answer.text


# --- strict JSON ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"{}{}",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e400]",
        b'{"a":1,"a":2}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'["\xff"]',
        b'["\\ud800"]',
        b'{"\\udfff":1}',
        b'["a\nb"]',
        b"[01]",
        b"[1,]",
        b"'a'",
        b"[" + b"9" * 41 + b"]",
        b"[0." + b"9" * 400000 + b"]",
        b"[" * 9 + b"]" * 9,
        b"[" * 100000,
        b'{"a":' * 9,
        b'"' + b'\\"' * 500000,
        b'"' * 1000000,
    ],
)
def test_what_is_not_strict_json_is_refused_at_once(body: bytes) -> None:
    with pytest.raises(strict_json.NotStrictJsonError):
        strict_json.parse(body)


def test_what_is_strict_json_is_taken() -> None:
    assert strict_json.parse(b' {"a": [1, -2.5e3, true, null, "\\ud83d\\ude00 \xc3\xa9 [{"]}\r\n') == {
        "a": [1, -2500.0, True, None, "\U0001f600 é [{"]
    }
    assert strict_json.parse(b"[" * 8 + b"]" * 8) == [[[[[[[[]]]]]]]]
