"""Every assertion as it holds, as it is broken and what is said then; no answer holds or breaks the judge."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonpath_rfc9535 import JSONPathEnvironment
from pydantic import TypeAdapter, ValidationError

from shared.assertions import (
    LARGEST_BODY,
    Answer,
    Assertion,
    Broken,
    Finding,
    TooMuchError,
    Undecided,
    finding,
    quick_finding,
    work_of,
)
from shared.assertions.reading import Reading
from shared.endpoint import is_plain_text

ADAPTER: TypeAdapter[Assertion] = TypeAdapter(Assertion)
SECRET = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
Document = dict[str, Any]


def parsed(document: Document) -> Assertion:
    return ADAPTER.validate_python(document)


def answer(
    body: bytes | str | Document | list[Any] = b"",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    elapsed_ms: float = 12.0,
    certificate_days: float | None = None,
) -> Answer:
    if isinstance(body, dict | list):
        body = json.dumps(body)
    pairs = list(headers.items()) if isinstance(headers, dict) else headers or []
    return Answer(pairs, body.encode() if isinstance(body, str) else body, elapsed_ms, certificate_days)


def judged(document: Document, given_answer: Answer) -> Finding:
    return finding([parsed(document)], given_answer)


def broken_by(document: Document, given_answer: Answer) -> Broken:
    found = judged(document, given_answer)
    assert isinstance(found, Broken), found
    return found


def undecided_by(document: Document, given_answer: Answer) -> Undecided:
    found = judged(document, given_answer)
    assert isinstance(found, Undecided), found
    return found


def named(value: object) -> str | None:
    """The name of a row: what it asserts. Bodies are too long to be printed."""
    if isinstance(value, dict):
        return str(value)[:100]
    return "answer" if isinstance(value, Answer) else str(value)[:60]


def contains(value: str) -> Document:
    return {"type": "body_contains", "value": value}


def lacks(value: str) -> Document:
    return {"type": "body_not_contains", "value": value}


def matches(pattern: str) -> Document:
    return {"type": "body_matches", "pattern": pattern}


def unlike(pattern: str) -> Document:
    return {"type": "body_not_matches", "pattern": pattern}


def at(path: str, operator: str, *value: object) -> Document:
    return {"type": "json", "path": path, "operator": operator} | ({"value": value[0]} if value else {})


def header(name: str, operator: str, *value: object) -> Document:
    return {"type": "header", "name": name, "operator": operator} | ({"value": value[0]} if value else {})


def size(**bounds: int) -> Document:
    return {"type": "body_size", **bounds}


def within(milliseconds: int) -> Document:
    return {"type": "max_response_ms", "value": milliseconds}


def days(count: int) -> Document:
    return {"type": "certificate_days", "value": count}


LATIN = {"Content-Type": "text/html; charset=ISO-8859-1"}
COOKIES = [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X-Cache", "MISS"), ("x-cache", "HIT")]

HOLDING: list[tuple[Document, Answer]] = [
    (contains("ok"), answer("all ok")),
    (contains("d\u00e9j\u00e0"), answer("d\u00e9j\u00e0 vu")),
    (contains("d\u00e9j\u00e0"), answer("d\u00e9j\u00e0 vu".encode("latin-1"), LATIN)),
    (
        contains("d\u00e9j\u00e0"),
        answer("d\u00e9j\u00e0".encode("utf-16"), {"content-type": 'text/plain;Charset="utf-16"'}),
    ),
    (contains("d\u00e9j\u00e0"), answer("d\u00e9j\u00e0", {"Content-Type": "text/plain; charset=punycode"})),
    (contains("ok"), answer(b"\xff\xfe ok")),
    (contains("two\nlines"), answer("two\nlines")),
    (lacks("error"), answer("all ok")),
    (lacks("error"), answer("ERROR")),
    (lacks("error"), answer()),
    (matches("^v[0-9]+$"), answer("\ufeffv12")),
    (matches("(?i)HEALTHY|fine"), answer("it is healthy")),
    (matches("(?m)^b$"), answer("a\nb\nc")),
    (matches("d.j.$"), answer("d\u00e9j\u00e0".encode("latin-1"), LATIN)),
    (unlike("error|exception"), answer("all ok")),
    (at("$.a.b[0]", "equals", "ok"), answer({"a": {"b": ["ok"]}})),
    (at("$", "equals", 1), answer("1.0")),
    (at("$", "equals", 1.0), answer("1")),
    (at("$", "equals", 2**64 - 1), answer(str(2**64 - 1))),
    (at("$", "equals", 2.0**70), answer(str(2**70))),
    (at("$", "equals", True), answer("true")),
    (at("$", "equals", ""), answer('""')),
    (at("$.a", "equals", 1), answer(b'\xef\xbb\xbf{"a":1}')),
    (at("$", "not_equals", 1), answer("true")),
    (at("$", "not_equals", False), answer("0")),
    (at("$", "not_equals", "x"), answer("null")),
    (at("$[*].s", "equals", "up"), answer([{"s": "up"}, {"s": "up"}])),
    (at("$[*].s", "not_equals", "down"), answer([{"s": "up"}, {}])),
    (at("$..s", "equals", "up"), answer({"s": "up", "t": {"s": "up"}})),
    (at("$.n", "less_than", 3), answer({"n": 2.5})),
    (at("$.n", "greater_than", 2.5), answer({"n": 3})),
    (at("$.n", "at_least", 3), answer({"n": 3})),
    (at("$.n", "at_most", 3), answer({"n": 3.0})),
    (at("$.n", "contains", "ell"), answer({"n": "hello"})),
    (at("$.n", "contains", "b"), answer({"n": ["a", "b"]})),
    (at("$.n", "matches", r"^1\."), answer({"n": "1.2.3"})),
    (at("$.n", "exists"), answer({"n": None})),
    (at("$.m", "not_exists"), answer({"n": None})),
    (at("$[?@.state == 'failed']", "not_exists"), answer([{"state": "done"}])),
    (at("$[?length(@.name) > 2 && !@.hidden]", "exists"), answer([{"name": "abc"}])),
    (at("$.n", "is_null"), answer({"n": None})),
    (at("$.n", "is_not_null"), answer({"n": 0})),
    (at("$['a.b'][-1]", "equals", 2), answer({"a.b": [1, 2]})),
    (at("$[1:]", "equals", 2), answer([1, 2, 2])),
    (header("x-CACHE", "equals", "HIT"), answer(headers=COOKIES)),
    (header("x-cache", "contains", "IS"), answer(headers=COOKIES)),
    (header("x-cache", "not_equals", "STALE"), answer(headers=COOKIES)),
    (header("x-cache", "matches", "^(HIT|STALE)$"), answer(headers=COOKIES)),
    (header("Set-Cookie", "exists"), answer(headers=COOKIES)),
    (header("X-Powered-By", "not_exists"), answer(headers=COOKIES)),
    (size(min=3), answer("abc")),
    (size(max=3), answer("abc")),
    (size(min=3, max=3), answer("abc")),
    (size(max=0), answer()),
    (size(min=LARGEST_BODY), answer(b"x" * LARGEST_BODY)),
    (within(12), answer(elapsed_ms=12.0)),
    (days(14), answer(certificate_days=14.0)),
]

BROKEN: list[tuple[Document, Answer, str]] = [
    (contains("ok"), answer("x" * 512), 'body contains "ok": expected this text, found a body of 512 bytes without it'),
    (contains("ok"), answer(), 'body contains "ok": expected this text, found a body of 0 bytes without it'),
    (
        contains("two\nlines"),
        answer("x"),
        'body contains "two lines": expected this text, found a body of 1 byte without it',
    ),
    (contains(SECRET), answer("x"), "body contains ***: expected this text, found a body of 1 byte without it"),
    (
        lacks("err"),
        answer("no err"),
        'body does not contain "err": expected a body without it, found it after 3 characters',
    ),
    (matches("^a$"), answer("b"), 'body matches "^a$": expected a match, found none in a body of 1 byte'),
    (unlike("err.*"), answer("an error\n"), 'body does not match "err.*": expected no match, found "error"'),
    (unlike(r"\w+"), answer(SECRET), 'body does not match "\\w+": expected no match, found ***'),
    (at("$.s", "equals", "ok"), answer({"s": "down"}), 'json $.s equals: expected "ok", found "down"'),
    (at("$.s", "equals", "ok"), answer({}), 'json $.s equals: expected "ok", found nothing there'),
    (at("$.s", "equals", "ok"), answer("<html>"), 'json $.s equals: expected "ok", found the body is not JSON'),
    (at("$.s", "equals", "ok"), answer(), 'json $.s equals: expected "ok", found the body is not JSON'),
    (at("$", "equals", 1), answer("NaN"), "json $ equals: expected 1, found the body is not JSON"),
    (at("$", "equals", 1), answer("true"), "json $ equals: expected 1, found true"),
    (at("$", "equals", True), answer("1"), "json $ equals: expected true, found 1"),
    (at("$", "equals", 0), answer("null"), "json $ equals: expected 0, found null"),
    (at("$", "equals", 1), answer('"1"'), 'json $ equals: expected 1, found "1"'),
    (at("$", "equals", "a"), answer(["a"]), 'json $ equals: expected "a", found an array of 1'),
    (at("$", "equals", "a"), answer({"a": 1}), 'json $ equals: expected "a", found an object of 1'),
    (at("$", "not_equals", 1), answer("1.0"), "json $ not equals: expected anything but 1, found 1.0"),
    (at("$.s", "not_equals", 1), answer({}), "json $.s not equals: expected anything but 1, found nothing there"),
    (at("$[*]", "equals", "up"), answer(["up", "down"]), 'json $[*] equals: expected "up", found "down"'),
    (
        at("$[*]", "not_equals", "down"),
        answer(["up", "down"]),
        'json $[*] not equals: expected anything but "down", found "down"',
    ),
    (at("$", "less_than", 3), answer("3"), "json $ less than: expected a number less than 3, found 3"),
    (at("$", "at_least", 3), answer('"4"'), 'json $ at least: expected a number at least 3, found "4"'),
    (at("$", "at_least", 0), answer("true"), "json $ at least: expected a number at least 0, found true"),
    (at("$", "contains", "a"), answer("7"), 'json $ contains: expected a text or an array with "a" in it, found 7'),
    (
        at("$", "contains", "a"),
        answer({"a": 1}),
        'json $ contains: expected a text or an array with "a" in it, found an object of 1',
    ),
    (at("$", "matches", "^a"), answer('"ba"'), 'json $ matches: expected a text that matches "^a", found "ba"'),
    (at("$.a", "exists"), answer({"b": 1}), "json $.a exists: expected something, found nothing there"),
    (at("$.a", "not_exists"), answer({"a": None}), "json $.a not exists: expected nothing there, found null"),
    (
        at("$.a", "not_exists"),
        answer("<html>"),
        "json $.a not exists: expected nothing there, found the body is not JSON",
    ),
    (at("$.a", "is_null"), answer({"a": 0}), "json $.a is null: expected null, found 0"),
    (at("$.a", "is_not_null"), answer({"a": None}), "json $.a is not null: expected anything but null, found null"),
    (at("$.token", "equals", "x"), answer({"token": "hunter2"}), "json $.token equals: expected ***, found ***"),
    (at("$.v", "equals", "x"), answer({"v": SECRET}), 'json $.v equals: expected "x", found ***'),
    (at("$.v", "equals", "x"), answer({"v": "a " * 40 + SECRET}), 'json $.v equals: expected "x", found ***'),
    (at("$.v", "equals", "x"), answer({"v": "a\r\nb\u202e"}), 'json $.v equals: expected "x", found "a  b "'),
    (header("A", "equals", "x"), answer(), 'header A equals: expected "x", found no such header'),
    (header("A", "equals", "x"), answer(headers={"a": "y\r\n"}), 'header A equals: expected "x", found "y  "'),
    (
        header("X-Cache", "equals", "x"),
        answer(headers=COOKIES),
        'header X-Cache equals: expected "x", found "MISS", "HIT"',
    ),
    (
        header("X-Cache", "not_equals", "HIT"),
        answer(headers=COOKIES),
        'header X-Cache not equals: expected anything but "HIT", found "MISS", "HIT"',
    ),
    (header("A", "not_equals", "x"), answer(), 'header A not equals: expected anything but "x", found no such header'),
    (
        header("A", "contains", "x"),
        answer(headers={"a": "y"}),
        'header A contains: expected a value with "x", found "y"',
    ),
    (
        header("A", "matches", "x"),
        answer(headers={"a": "y"}),
        'header A matches: expected a value that matches "x", found "y"',
    ),
    (header("A", "exists"), answer(), "header A exists: expected such a header, found no such header"),
    (
        header("A", "not_exists"),
        answer(headers={"a": "Basic eDp5"}),
        "header A not exists: expected no such header, found ***",
    ),
    (
        header("Set-Cookie", "not_exists"),
        answer(headers=COOKIES),
        "header Set-Cookie not exists: expected no such header, found ***, ***",
    ),
    (size(min=2, max=2), answer("abc"), "body size: expected at least 2 bytes and at most 2 bytes, found 3 bytes"),
    (size(min=1), answer(), "body size: expected at least 1 byte, found 0 bytes"),
    (
        size(max=5),
        answer(b"x" * LARGEST_BODY),
        "body size: expected at most 5 bytes, found 1,048,576 bytes and maybe more",
    ),
    (within(1500), answer(elapsed_ms=1500.3), "response time: expected at most 1,500 ms, found 1,500.3 ms"),
    (
        days(14),
        answer(certificate_days=3.25),
        "certificate: expected valid for at least 14 days, found valid for 3.25 days",
    ),
    (
        days(1),
        answer(certificate_days=-3.0),
        "certificate: expected valid for at least 1 day, found expired 3.00 days ago",
    ),
    (days(1), answer(), "certificate: expected valid for at least 1 day, found no certificate, for there is no TLS"),
]

REFUSED: list[tuple[Document, str]] = [
    ({"type": "body"}, "does not match any of the expected tags"),
    ({"value": "x"}, "Unable to extract tag"),
    (contains(""), "at least 1 character"),
    (contains("x" * 1001), "at most 1000 characters"),
    (contains("x") | {"case": False}, "not permitted"),
    ({"type": "body_contains", "value": 5}, "valid string"),
    (matches("("), "regular expression of RE2"),
    (matches("(?=a)"), "regular expression of RE2"),
    (matches(r"(a)\1"), "regular expression of RE2"),
    (matches("a{1001}"), "regular expression of RE2"),
    (matches("a" * 501), "at most 500 characters"),
    (matches("(.{30}){30}"), "smaller pattern"),
    (matches(r"\pL{900}"), "smaller pattern"),
    (at("$.n", "resembles"), "does not match any of the expected tags"),
    ({"type": "json", "path": "$"}, "Unable to extract tag"),
    (at("n", "exists"), "should match pattern"),
    (at("$.", "exists"), "JSON path of RFC 9535"),
    (at("$[?@.a == 1e999]", "exists"), "JSON path of RFC 9535"),
    (at("$[?match(@.a, '(a*)*b')]", "exists"), "without any function but length()"),
    (at("$[?search(@.a, @.b)]", "exists"), "without any function but length()"),
    (at("$[?count(@..*) > 1]", "exists"), "without any function but length()"),
    (at("$[?value(@..a) > 1]", "exists"), "without any function but length()"),
    (at("$..a..b", "exists"), "'..' once"),
    (at("$[*,*][*,*]", "exists"), "one selector"),
    (at("$['a','b']", "exists"), "one selector"),
    (at("$[?@..a]", "exists"), "names and indexes"),
    (at("$[?@[?@.a]]", "exists"), "names and indexes"),
    (at("$[?$.*]", "exists"), "names and indexes"),
    (at("$[?@.a == $.b]", "exists"), "with a literal"),
    (at("$[?length(@.a) == length(@.b)]", "exists"), "with a literal"),
    (at("$[?" + "||".join(["@.a==1"] * 15) + "]", "exists"), "smaller filter"),
    (at("$[?" + "(" * 80 + "@.a" + ")" * 80 + "]", "exists"), "fewer parentheses"),
    (at("$[?" + "!" * 180 + "@.a]", "exists"), "fewer parentheses"),
    (at("$" + ".a" * 100, "exists"), "at most 200 characters"),
    (at("$", "exists", 1), "not permitted"),
    (at("$", "is_null", None), "not permitted"),
    (at("$", "equals"), "Field required"),
    (at("$", "equals", None), "valid"),
    (at("$", "equals", [1]), "valid"),
    (at("$", "equals", float("nan")), "finite number"),
    (at("$", "equals", 10**400), "valid"),
    (at("$", "less_than", "3"), "valid"),
    (at("$", "less_than", True), "valid"),
    (at("$", "contains", 3), "valid string"),
    (at("$", "matches", "("), "regular expression of RE2"),
    (header("a b", "exists"), "should match pattern"),
    (header("", "exists"), "should match pattern"),
    (header("a\n", "exists"), "should match pattern"),
    (header("a", "less_than", 3), "does not match any of the expected tags"),
    (header("a", "equals"), "Field required"),
    (header("a", "matches", "["), "regular expression of RE2"),
    (size(), "min, max or both"),
    (size(min=2, max=1), "not above max"),
    (size(min=-1), "greater than or equal to 0"),
    (size(max=LARGEST_BODY), "less than 1048576"),
    (within(0), "greater than or equal to 1"),
    ({"type": "max_response_ms", "value": "5"}, "valid integer"),
    ({"type": "max_response_ms", "value": True}, "valid integer"),
    (days(0), "greater than or equal to 1"),
]


@pytest.mark.parametrize(("document", "given_answer"), HOLDING, ids=named)
def test_an_assertion_that_holds_is_not_broken(document: Document, given_answer: Answer) -> None:
    assert judged(document, given_answer) is None


@pytest.mark.parametrize(("document", "given_answer", "sentence"), BROKEN, ids=named)
def test_a_broken_assertion_says_what_was_expected_and_found(
    document: Document, given_answer: Answer, sentence: str
) -> None:
    assert broken_by(document, given_answer).sentence == sentence


@pytest.mark.parametrize(("document", "rule"), REFUSED, ids=named)
def test_what_cannot_be_judged_is_refused_with_its_rule(document: Document, rule: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        parsed(document)
    assert rule in " ".join(error["msg"] for error in refusal.value.errors())


def test_the_first_of_several_broken_assertions_is_told() -> None:
    rules = [parsed(document) for document in (within(100), contains("a"), contains("b"))]
    broken = finding(rules, answer())
    assert isinstance(broken, Broken)
    assert broken.assertion == 'body contains "a"'


def test_nothing_is_broken_where_nothing_is_asserted() -> None:
    assert finding([], answer(b"\xff")) is None


def test_what_was_found_is_cut_to_100_characters() -> None:
    many = [("A", "words of a value " * 9)] * 9
    for broken in (
        broken_by(at("$", "equals", 1), answer(json.dumps("long words " * 999))),
        broken_by(header("a", "not_exists"), answer(headers=many)),
    ):
        assert 80 < len(broken.found) <= 100


def test_json_is_parsed_once_for_all_assertions(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []
    original = orjson.loads

    def loads(body: bytes) -> object:
        bodies.append(body)
        return original(body)

    monkeypatch.setattr(orjson, "loads", loads)
    assert finding([parsed(at("$.a", "exists")), parsed(at("$.a", "equals", 1))] * 5, answer({"a": 1})) is None
    assert bodies == [b'{"a": 1}']


# --- the schema ---


@pytest.mark.parametrize("document", [row[0] for row in HOLDING], ids=named)
def test_an_assertion_survives_being_stored(document: Document) -> None:
    assertion = parsed(document)
    stored = assertion.model_dump(mode="json", exclude_none=True)
    assert stored == document
    assert parsed(stored) == assertion
    assert ADAPTER.validate_json(json.dumps(stored)) == assertion
    assert json.dumps(parsed(stored).model_dump(mode="json", exclude_none=True)) == json.dumps(stored)


def test_the_schema_leads_by_type_and_operator_to_one_exact_model_each() -> None:
    schema = ADAPTER.json_schema()
    definitions = schema["$defs"]
    mapping = schema["discriminator"]["mapping"]
    assert all(isinstance(target, str) and target.startswith("#/$defs/") for target in mapping.values())
    assert set(mapping) == {
        *("body_contains", "body_not_contains", "body_matches", "body_not_matches", "json", "header"),
        *("body_size", "max_response_ms", "certificate_days"),
    }
    for name, operators in (("Json", 12), ("Header", 6)):
        assert mapping[name.lower()] == f"#/$defs/{name}"
        assert definitions[name]["discriminator"]["propertyName"] == "operator"
        assert len(definitions[name]["discriminator"]["mapping"]) == operators
    assert "value" not in definitions["JsonPresence"]["properties"]
    assert "value" in definitions["JsonEquality"]["required"]
    assert definitions["BodySize"]["anyOf"] == [{"required": ["min"]}, {"required": ["max"]}]
    assert definitions["BodySize"]["properties"]["min"]["type"] == "integer"
    assert "default" not in definitions["BodySize"]["properties"]["max"]
    assert definitions["BodySize"]["additionalProperties"] is False
    assert definitions["BodyPattern"]["properties"]["pattern"]["format"] == "re2"


# --- nothing holds a worker ---


def filled(unit: bytes, head: bytes = b"[", tail: bytes = b"0]") -> bytes:
    return head + unit * ((LARGEST_BODY - len(head) - len(tail)) // len(unit)) + tail


WORST_DOCUMENTS = {
    "wide lists": filled(b"[],"),
    "wide texts": filled(b'"a",'),
    "wide, deep down": filled(b"[],", b"[" * 1000, b"0" + b"]" * 1000),
    "many chains": filled(b'{"a":' * 100 + b"1" + b"}" * 100 + b","),
    "many deep chains": filled(b"[" * 1000 + b"]" * 1000 + b","),
}
WORST_PATHS = [
    "$..*" + "[*]" * 60,
    "$" + "[*]" * 66,
    "$..a" + ".a" * 90,
    "$..[::-1]",
    "$..[?" + "||".join(["@.a==1"] * 7) + "]",
    "$..[?@.a.a.a.a.a.a.a.a.a == 1]",
]


@pytest.mark.parametrize("body", WORST_DOCUMENTS.values(), ids=WORST_DOCUMENTS)
@pytest.mark.parametrize("path", WORST_PATHS)
def test_the_worst_path_on_the_worst_document_ends_soon(path: str, body: bytes) -> None:
    rules = [parsed(at(path, "not_equals", "x")), parsed(at(path, "matches", "(a?){90}a{90}z|a"))]
    rules += [parsed(at(path, "not_exists"))] * 18
    started = time.thread_time()
    finding(rules, answer(body))
    assert time.thread_time() - started < 2.5


@pytest.mark.parametrize(
    "pattern",
    [
        "[ab]*a[ab]{45}c",
        "[ab]*a[ab]{60}c",
        "[ab]*a[ab]{950}c",
        "((a|b){30}){30}c",
        "(?s)a.{200}z",
        "(a?){200}a{200}z",
        "(a*)*" * 30 + "[ab]{100}c",
        "(x+x+)+y",
    ],
)
@pytest.mark.parametrize("letters", ["ab", "a"])
def test_twenty_of_the_worst_patterns_end_soon(pattern: str, letters: str) -> None:
    random.seed(1)
    body = "".join(random.choices(letters, k=LARGEST_BODY))
    started = time.thread_time()
    finding([parsed(unlike(f"{pattern}{number}")) for number in range(20)], answer(body))
    assert time.thread_time() - started < 2.5


def test_a_pattern_that_takes_too_long_is_undecided_and_neither_holds_nor_is_broken() -> None:
    random.seed(1)
    body = "".join(random.choices("ab", k=LARGEST_BODY))
    for rule in (matches("[ab]*a[ab]{900}c"), unlike("[ab]*a[ab]{900}c")):
        undecided = undecided_by(rule, answer(body))
        assert undecided.why == "the pattern takes too long to search 1,048,576 bytes"


def test_a_long_pattern_is_decided_when_it_takes_no_time() -> None:
    sentence = (
        "The quick brown fox jumps over the lazy dog, and the service is entirely healthy, says the operations team"
    )
    large = "x{200}" * 9
    body = "<p>all is well</p>\n" * 50_000
    assert judged(matches(sentence), answer(body + sentence)) is None
    assert judged(unlike(sentence), answer(body)) is None
    assert isinstance(judged(matches(sentence), answer(body)), Broken)
    assert judged(unlike(large), answer(body)) is None
    assert judged(matches(large), answer(body + "x" * 1800)) is None
    assert judged(matches(f"{large}$"), answer(body + "x" * 1800)) is None


@pytest.mark.parametrize("pattern", ["x{200}$|a{999}", "x{200}\\b|a{999}", "(?m)x{200}$|a{999}", "x{200}\\z|a{999}"])
def test_the_end_of_a_piece_is_not_taken_for_the_end_of_the_body(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.assertions.reading._PATTERN_WORK_AT_ONCE", 1200 * 1000)  # Pieces of about 1,000.
    assert judged(unlike(pattern), answer("x" * 50_000 + "y")) is None
    assert judged(matches(pattern), answer("x" * 50_000)) is None


def test_more_work_than_allowed_is_undecided() -> None:
    rules = [parsed(at("$..[?@.a.a.a.a.a.a.a.a.a == 1]", "not_exists"))] * 20
    undecided = finding(rules, answer(filled(b'"abcdefg",')))
    assert isinstance(undecided, Undecided)
    assert undecided.why == "this check's assertions take more than 1.5 s of computing"


def test_what_is_broken_for_certain_is_told_before_what_is_undecided() -> None:
    rules = [parsed(at("$..a", "exists")), parsed(contains("never"))]
    assert isinstance(finding(rules, answer(WORST_DOCUMENTS["wide lists"])), Broken)
    assert isinstance(finding(rules[:1], answer(WORST_DOCUMENTS["wide lists"])), Undecided)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"a":1},', b'{"a":{"b":{}}},'])
def test_a_document_that_would_take_much_memory_is_not_parsed(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orjson, "loads", pytest.fail)
    undecided = undecided_by(at("$", "exists"), answer(filled(unit)))
    assert undecided.sentence == ("json $ exists: the body has more objects, arrays and values than are read as JSON")


@pytest.mark.parametrize(
    "unit",
    [b'{"id":12345,"ok":true},', b'{"name":"a b c, d","tags":["x","y"],"n":0.25},', b"12345.678,", b"[51.5,-0.12],"],
)
def test_an_ordinary_document_of_a_mebibyte_is_parsed(unit: bytes) -> None:
    assert judged(at("$[0]", "exists"), answer(filled(unit))) is None


def test_a_filter_looks_through_a_large_array_and_a_large_object() -> None:
    array = [{"k": str(number), "v": number} for number in range(38_000)]
    assert finding([parsed(at("$[?@.v == 37999].k", "equals", "37999"))] * 3, answer(array)) is None
    document = {f"n{number}": {"v": number} for number in range(30_000)}
    assert judged(at("$[?@.v == 29999].v", "equals", 29_999), answer(document)) is None
    assert isinstance(judged(at("$[?@.v > 29999]", "exists"), answer(document)), Broken)


def test_a_time_that_the_monitor_may_have_lost_itself_decides_nothing() -> None:
    slow = Answer((), b"", 900.0, None, lost_ms=600.0)
    undecided = undecided_by(within(400), slow)
    assert undecided.sentence == "response time: of 900 ms the monitor itself was held up for 600 ms"
    assert broken_by(within(200), slow).found == "900.0 ms"
    assert judged(within(900), slow) is None


def test_what_a_body_lacks_is_said_of_the_part_that_was_read() -> None:
    cut = answer(b"x" * LARGEST_BODY)
    assert broken_by(contains("ok"), cut).found == "the first 1,048,576 bytes without it"
    assert broken_by(matches("ok"), cut).found == "none in the first 1,048,576 bytes"


def test_a_quick_judgement_says_what_the_thorough_one_says_or_that_it_is_too_much() -> None:
    small = answer({"a": [1, 2, 3]})
    for document in (at("$.a[1]", "equals", 2), contains("no"), matches("[0-9]"), size(max=1), at("$..b", "exists")):
        assert quick_finding([parsed(document)], small) == finding([parsed(document)], small)
    large = answer(filled(b'{"id":12345,"ok":true},'))
    for document in (at("$", "exists"), contains("no"), matches("[0-9]{9}")):
        with pytest.raises(TooMuchError):
            quick_finding([parsed(document)], large)
    assert quick_finding([parsed(within(100)), parsed(size(min=1))], large) is None


def test_a_long_judgement_makes_many_pauses() -> None:
    pauses: list[None] = []
    rules = [parsed(at("$[?@.id == 1]", "not_exists")), parsed(contains("zzz"))]
    finding(rules, answer(filled(b'{"id":12345,"ok":true},')), lambda: pauses.append(None))
    assert len(pauses) > 200


def test_a_costly_pattern_is_more_work_than_a_text() -> None:
    body = answer("x" * 1000)
    costly, json_path, text = ([parsed(rule)] for rule in (matches("[ab]{900}"), at("$", "exists"), contains("x")))
    assert work_of(costly, body) > work_of(json_path, body) > work_of(text, body)


def test_an_ordinary_path_reads_a_document_of_a_mebibyte() -> None:
    body = filled(b'{"id":12345,"ok":true},', tail=b'{"ok":true}]')
    assert finding([parsed(at("$[*].ok", "equals", True))] * 3, answer(body)) is None
    assert finding([parsed(at("$..ok", "equals", True))] * 2, answer(body)) is None
    assert finding([parsed(at("$[?@.ok == false]", "not_exists"))], answer(body)) is None


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 1025 + b"]" * 1025, b'{"a":' * 50_000])
def test_deep_json_is_told_not_to_be_json(body: bytes) -> None:
    assert broken_by(at("$..a", "exists"), answer(body)).found == "the body is not JSON"


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b" \n"])
def test_json_that_was_cut_off_is_undecided_and_what_is_no_json_is_not(head: bytes) -> None:
    whole = head + b"[" + b'{"id":12345,"ok":true},' * 100_000
    undecided = undecided_by(at("$", "exists"), answer(whole[:LARGEST_BODY]))
    assert undecided.why == "the body is longer than the 1,048,576 bytes that are read"
    page = head + b"<!doctype html>" * LARGEST_BODY
    assert broken_by(at("$", "exists"), answer(page[:LARGEST_BODY])).found == "the body is not JSON"


ANYTHING = [parsed(row[0]) for row in HOLDING]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abns"), inner, max_size=4),
    max_leaves=20,
)
CHARSETS = st.sampled_from(
    ["utf-7", "utf-16", "idna", "unicode_escape", "undefined", "base64", "gbk", "x" * 99, "..", ""]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["x-cache", "Set-Cookie", "A"]) | st.text(max_size=9),
        st.text(st.characters(), max_size=300),
    )
    | st.tuples(st.just("Content-Type"), CHARSETS.map("text/html; charset={}".format)),
    max_size=5,
)


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "utf-16-be", "shift_jis", "gb18030", "iso-2022-jp", "latin-1"])
def test_a_large_body_is_decoded_as_a_whole_although_it_is_done_in_pieces(charset: str) -> None:
    text = "\u00e9\u3042a" * 100_000 if charset.startswith(("utf", "gb")) else "\u3042a" * 100_000
    text = "\u00e9a" * 100_000 if charset == "latin-1" else text
    reading = Reading(answer(text.encode(charset), {"Content-Type": f"text/plain; charset={charset}"}), lambda: None)
    assert reading.text == text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.permutations(ANYTHING),
    body=st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()),
    headers=HEADERS,
    elapsed_ms=st.floats(),
    certificate_days=st.none() | st.floats(),
)
def test_no_answer_makes_the_judge_raise_or_speak_unplainly(
    rules: list[Assertion],
    body: bytes,
    headers: list[tuple[str, str]],
    elapsed_ms: float,
    certificate_days: float | None,
) -> None:
    for rule in rules:
        broken = finding([rule], Answer(headers, body, elapsed_ms, certificate_days))
        if broken is not None:
            assert isinstance(broken, Broken)
            assert is_plain_text(broken.sentence)
            assert len(broken.found) <= 100
            assert len(broken.sentence) < 500


PATHS = [row[0]["path"] for row in HOLDING if row[0]["type"] == "json"] + [
    *("$..*", "$..a", "$..[0]", "$[*][*]", "$.a[::2]", "$..[?@.a]", "$..[?@ == 1]", "$[?@.a < 'n' || @.b >= 2]"),
    *("$..[?length(@.a) == 1]", "$[?@.a == null]", "$[?$.a == 1]", "$..a[-1]", "$.*.*.*"),
]


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_a_path_selects_what_the_library_selects(path: str, value: object) -> None:
    body = json.dumps(value)
    ours = list(Reading(answer(body)).select(path))
    assert ours == JSONPathEnvironment().find(path, orjson.loads(body)).values()


@settings(max_examples=500, deadline=None)
@given(path=st.text(st.sampled_from("$.[]*?@'\"ab01,:()!&|=<>-\\ ulength"), max_size=40).map("${}".format))
def test_a_path_is_accepted_or_refused_and_nothing_else(path: str) -> None:
    try:
        rule = parsed(at(path, "is_not_null"))
    except ValidationError:
        return
    finding([rule], answer({"a": [{"b": 1}, "a"], "b": None}))


@settings(max_examples=500, deadline=None)
@given(
    pattern=st.text(
        st.sampled_from("ab.*+?{}()[]^$|\\0123456789,dwpPLCQEbB:=!<>-\n\x00\u00e9"), min_size=1, max_size=40
    )
)
def test_a_pattern_is_accepted_or_refused_and_nothing_else(pattern: str) -> None:
    try:
        rule = parsed(matches(pattern))
    except ValidationError:
        return
    finding([rule], answer("ab \u00e9 01"))
