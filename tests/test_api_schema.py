"""/openapi.json is true: schemathesis finds nothing, and the document holds what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from redis import Redis

from api import checks, narrowing
from api.documents import downgrade
from api.narrowing import ENDPOINT_PATTERN, TITLE_PATTERN
from shared.check import Check
from shared.endpoint import check_endpoint, is_plain_text
from shared.maintenance import MaintenancePlan
from tests.api_client import app_on, checked_by, client_on, served

TOKEN = "correct-horse"
PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("token", "phases"), [(None, "coverage,stateful"), (TOKEN, "fuzzing")], ids=["open", "with a token"]
)
def test_schemathesis_finds_nothing(
    redis: Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, phases: str
) -> None:
    monkeypatch.setattr(checks, "MOST_A_MINUTE", 1_000_000)
    app = app_on(valkey_url, api_token=token, mail_recipients=("ops@example.org",))
    with served(app) as url, checked_by(redis):
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--checks=all"]
        command += [f"--phases={phases}", "--max-examples=10", "--seed=1", "--request-timeout=10", "--no-color"]
        command += [f"--header=Authorization: Bearer {token}"] if token else []
        run = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks", "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "25 selected / 25 total" in run.stdout


@pytest.fixture
def document(redis: Redis, valkey_url: str) -> Any:
    return client_on(valkey_url).get("/openapi.json").get_json()


def test_every_route_of_the_contract_is_declared(document: Any) -> None:
    declared = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert declared == {
        ("GET", "/status"),
        ("POST", "/status"),
        ("GET", "/status/queue"),
        ("POST", "/status/queue"),
        ("GET", "/emails"),
        ("POST", "/emails"),
        ("GET", "/api/v1/targets"),
        ("POST", "/api/v1/targets"),
        ("GET", "/api/v1/targets/{id}"),
        ("PATCH", "/api/v1/targets/{id}"),
        ("DELETE", "/api/v1/targets/{id}"),
        ("GET", "/api/v1/targets/{id}/results"),
        ("GET", "/api/v1/targets/{id}/failures"),
        ("POST", "/api/v1/targets/{id}/check"),
        ("POST", "/api/v1/check"),
        ("GET", "/api/v1/maintenance"),
        ("POST", "/api/v1/maintenance"),
        ("GET", "/api/v1/maintenance/{id}"),
        ("PUT", "/api/v1/maintenance/{id}"),
        ("DELETE", "/api/v1/maintenance/{id}"),
        ("GET", "/api/v1/incidents"),
        ("GET", "/api/v1/incidents/{id}"),
        ("POST", "/api/v1/incidents/{id}/acknowledge"),
        ("GET", "/api/v1/outbox"),
        ("POST", "/api/v1/outbox/{id}/retry"),
    }


def test_one_schema_of_a_target_serves_both_doors(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["PostStatus"]["properties"]["targets"]["items"] == {"$ref": "#/components/schemas/Check"}
    body = document["paths"]["/api/v1/targets"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Check"}


def test_refusals_have_the_shape_of_their_door(document: Any) -> None:
    for path, operations in document["paths"].items():
        mimetype, model = (
            ("application/problem+json", "Problem") if path.startswith("/api") else ("application/json", "Error")
        )
        for operation in operations.values():
            refusals = {code: answer for code, answer in operation["responses"].items() if code >= "400"}
            assert {"401", "403", "422", "500", "503"} <= set(refusals), path
            for answer in refusals.values():
                assert answer["content"] == {mimetype: {"schema": {"$ref": f"#/components/schemas/{model}"}}}


def test_every_reference_leads_somewhere(document: Any) -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert names <= set(document["components"]["schemas"])


def test_the_token_is_declared_where_it_is_asked_for(redis: Redis, valkey_url: str, document: Any) -> None:
    assert "security" not in document
    client = client_on(valkey_url, api_token=TOKEN)
    with_token = client.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).get_json()
    assert with_token["security"] == [{"bearer": []}, {"basic": []}]
    assert set(with_token["components"]["securitySchemes"]) == {"bearer", "basic"}


def test_schemas_are_put_into_the_words_of_openapi_3_0() -> None:
    schema = {
        "title": "X",
        "anyOf": [{"type": "integer", "minimum": 5.0, "title": "Y"}, {"type": "null"}],
        "default": None,
    }
    assert downgrade(schema) == {"type": "integer", "minimum": 5, "nullable": True}
    assert downgrade({"anyOf": [{"$ref": "#/x"}, {"type": "null"}]}) == {"allOf": [{"$ref": "#/x"}], "nullable": True}
    assert downgrade({"anyOf": [{"enum": [4, 6], "type": "integer"}, {"type": "null"}]}) == {
        "enum": [4, 6, None],
        "type": "integer",
        "nullable": True,
    }
    assert downgrade({"type": "integer", "exclusiveMaximum": 9.0}) == {
        "type": "integer",
        "maximum": 9,
        "exclusiveMaximum": True,
    }
    assert downgrade({"oneOf": [{"const": 1}, {"$ref": "#/x"}]}) == {"oneOf": [{"enum": [1]}, {"$ref": "#/x"}]}
    assert downgrade({"const": 1}) == {"enum": [1]}
    assert downgrade({"type": "null"}) == {"type": "object", "nullable": True, "enum": [None]}
    assert downgrade({"properties": {"title": {"type": "string", "title": "Title"}}}) == {
        "properties": {"title": {"type": "string"}}
    }


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.from_regex(ENDPOINT_PATTERN, fullmatch=True).filter(lambda endpoint: len(endpoint) <= 2048))
def test_an_endpoint_that_the_document_allows_is_allowed(endpoint: str) -> None:
    assert check_endpoint(endpoint) == endpoint


FIELDS_OF_PATTERNS: list[tuple[str, Callable[[str], dict[str, Any]]]] = [
    (narrowing.PROXY_PATTERN, lambda text: {"proxy": text}),
    (narrowing.PLAIN_PATTERN, lambda text: {"auth": {"type": "basic", "username": "", "password": text}}),
    (narrowing.USERNAME_PATTERN, lambda text: {"auth": {"type": "basic", "username": text, "password": ""}}),
    (narrowing.HEADER_VALUE_PATTERN, lambda text: {"headers": {"X-A": text}}),
    (narrowing.USUAL_HEADER_NAME_PATTERN, lambda text: {"headers": {text: "x"}}),
    (narrowing.CODES_PATTERN, lambda text: {"expected_http_codes": [text]}),
    (narrowing.CA_PATTERN, lambda text: {"ca_certificate": text}),
    (narrowing.CLIENT_PATTERN, lambda text: {"client_certificate": text}),
    (
        narrowing.JSON_PATH_PATTERN,
        lambda text: {"assertions": [{"type": "json", "path": text, "operator": "exists"}]},
    ),
]


@pytest.mark.parametrize(
    ("pattern", "field"), [(narrowing.RULE_PATTERN, "rrule"), (narrowing.ZONE_PATTERN, "timezone")]
)
@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_what_a_pattern_of_the_document_allows_of_a_maintenance_is_allowed(
    pattern: str, field: str, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(pattern, fullmatch=True))
    MaintenancePlan(
        **{"title": "x", "start": "2024-02-28T23:30:00-05:00", "rrule": "FREQ=DAILY", "duration": 60, field: text}
    )


@pytest.mark.parametrize(("pattern", "fields"), FIELDS_OF_PATTERNS)
@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_what_a_pattern_of_the_document_allows_is_allowed(
    pattern: str, fields: Callable[[str], dict[str, Any]], data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= 2048))
    Check(endpoint="https://example.org/", **fields(text))


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.from_regex(narrowing.NO_HEADER_NAME_PATTERN))
def test_a_header_name_that_the_document_forbids_is_forbidden(name: str) -> None:
    with pytest.raises(ValidationError):
        Check(endpoint="https://example.org/", headers={name: "x"})


def test_a_title_that_the_document_forbids_is_forbidden() -> None:
    for number in range(0x3000):
        assert bool(re.match(TITLE_PATTERN, chr(number))) >= is_plain_text(chr(number)), hex(number)


def test_the_docs_come_from_here_alone(redis: Redis, valkey_url: str) -> None:
    client: FlaskClient = client_on(valkey_url)
    page = client.get("/docs").text
    links = re.findall(r'(?:src|href|data-url)="([^"]+)"', page)
    assert len(links) >= 6
    for link in links:
        assert link.startswith("/"), link
        with client.get(link) as answer:
            assert answer.status_code == 200, link
