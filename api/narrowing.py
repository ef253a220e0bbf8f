"""What models cannot say of a request, for ``/openapi.json``: rules that are code, as far as a schema can tell them.

Where it cannot tell them exactly, it tells less than the server takes, so that whoever draws requests from it draws
good ones: internationalized hosts, IPv6 addresses and ranges such as "200-404" are taken too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.check import LONGEST_TIMEOUT_SECONDS

# --- texts ---

_CONTROLS = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_SPACES = r"\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
TITLE_PATTERN = rf"^[^{_CONTROLS}]*$"


def _without_mask(character: str) -> str:
    """Texts of these characters (none of them an asterisk), with asterisks: three of them are our mask, and refused."""
    return rf"(\*{{0,2}}{character})*\*{{0,2}}"


WORDS_PATTERN = rf"^[^{_CONTROLS}]*[^{_CONTROLS}{_SPACES}][^{_CONTROLS}]*$"
PLAIN_PATTERN = rf"^{_without_mask(f'[^*{_CONTROLS}]')}$"
USERNAME_PATTERN = rf"^{_without_mask(f'[^:*{_CONTROLS}]')}$"

# --- URLs ---

_NAME = r"[a-z][a-z0-9]{0,20}(-[a-z0-9]{1,20})?(\.[a-z][a-z0-9]{0,20}){0,5}"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_ADDRESS = rf"([1-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8]|1[7-9][0-9]|2[01][0-9]|22[0-3])(\.{_OCTET}){{3}}"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3})"
_AUTHORITY = rf"({_NAME}|{_ADDRESS})(:{_PORT})?"
_URL_CHARACTER = r"[!#-)+-;=?-\[\]-_a-~]"
ENDPOINT_PATTERN = rf"^https?://{_AUTHORITY}([/?#]{_without_mask(_URL_CHARACTER)})?$"
PROXY_PATTERN = rf"^(https?|socks5h?)://{_AUTHORITY}/?$"

# --- headers ---

_CONNECTION_S = (
    "[Cc]onnection|[Cc]ontent-[Ll]ength|[Ee]xpect|[Kk]eep-[Aa]live|[Pp]roxy-[Aa]uthorization|[Pp]roxy-[Cc]onnection|"
    "[Tt][Ee]|[Tt]railer|[Tt]ransfer-[Ee]ncoding|[Uu]pgrade"
)
NO_HEADER_NAME_PATTERN = rf"^$|[^!#$%&'*+.^_`|~0-9A-Za-z-]|^.{{129}}|^({_CONNECTION_S})$"
USUAL_HEADER_NAME_PATTERN = r"^X(-[A-Z][a-z0-9]{0,20}){1,3}$|^Accept(-Language)?$|^Content-Type$|^Cookie$|^Origin$"
_WORD_CHARACTER = f"[^*{_CONTROLS}{_SPACES}]"
_WORD = rf"((\*{{0,2}}{_WORD_CHARACTER})+\*{{0,2}}|\*{{1,2}})"
HEADER_VALUE_PATTERN = rf"^({_WORD}([{_SPACES}]+{_WORD})*)?$"

# --- status codes, PEM, assertions ---

_RANGES = "|".join(f"{hundred}00-{hundred}[0-9]{{2}}" for hundred in range(1, 6))
CODES_PATTERN = rf"^([1-5][0-9]{{2}}|{_RANGES})$"
_BASE64_CHARACTER = "[A-Za-z0-9+/]"
_BASE64_END = rf"({_BASE64_CHARACTER}{{4}}|{_BASE64_CHARACTER}{{3}}=|{_BASE64_CHARACTER}{{2}}==)"
_BASE64 = rf"({_BASE64_CHARACTER}{{64}}\n){{0,50}}({_BASE64_CHARACTER}{{4}}){{0,15}}{_BASE64_END}\n"


def _pem(kind: str) -> str:
    return rf"-----BEGIN {kind}-----\n{_BASE64}-----END {kind}-----\n"


_CERTIFICATE = _pem("CERTIFICATE")
_KEY = "|".join(_pem(f"{kind}PRIVATE KEY") for kind in ("", "RSA ", "EC "))
CA_PATTERN = rf"^({_CERTIFICATE}){{1,3}}$"
CLIENT_PATTERN = rf"^({_CERTIFICATE}){{1,3}}({_KEY})$"
JSON_PATH_PATTERN = r"^\$(\.[A-Za-z_][A-Za-z0-9_]{0,15}|\[(0|[1-9][0-9]{0,3})\]|\[\*\]){0,8}$"
_JSON = {"description": "Any JSON, within the depth that a request may have."}
_HEADER_VALUE = {"type": "string", "maxLength": 8192, "pattern": HEADER_VALUE_PATTERN}
_CHECK: dict[str, dict[str, Any]] = {
    "endpoint": {"pattern": ENDPOINT_PATTERN},
    "title": {"pattern": TITLE_PATTERN},
    "timeout": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": LONGEST_TIMEOUT_SECONDS},
    "backoff_factor": {"type": "number", "minimum": 0, "maximum": 120},
    "expected_http_codes": {
        "items": {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": CODES_PATTERN, "example": "200-299"},
            ]
        }
    },
    "headers": {
        "description": "By name, each once. No Authorization beside auth, and no User-Agent beside user_agent.",
        "maxProperties": 50,
        "additionalProperties": _HEADER_VALUE,
        # OpenAPI 3.0 has no word for the names of properties; readers of JSON schema know this one.
        "patternProperties": {USUAL_HEADER_NAME_PATTERN: _HEADER_VALUE, NO_HEADER_NAME_PATTERN: {"not": {}}},
    },
    "user_agent": {"pattern": PLAIN_PATTERN},
    "tags": {"items": {"type": "string", "minLength": 1, "maxLength": 50, "pattern": "^[A-Za-z0-9_-]+$"}},
    "recipients": {
        "items": {"type": "string", "maxLength": 254, "pattern": "^[a-z0-9]{1,30}@[a-z0-9]{1,30}[.]example$"}
    },
    # Which targets there are is nothing that a schema could tell.
    "parent": {"enum": [None]},
    "ca_certificate": {"pattern": CA_PATTERN},
    "client_certificate": {"pattern": CLIENT_PATTERN},
    "proxy": {"pattern": PROXY_PATTERN},
}
# --- maintenance ---

_MOMENT_PATTERN = (
    r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(Z|[+-](0[0-9]|1[01]):[0-5][0-9])$"
)
_WEEKDAY = "(MO|TU|WE|TH|FR|SA|SU)"
_OFTEN = "(;INTERVAL=[1-9])?(;COUNT=[1-9][0-9]{0,2})?"
_ON_DAYS = rf"FREQ=WEEKLY{_OFTEN};BYDAY={_WEEKDAY}(,{_WEEKDAY}){{0,6}}"
RULE_PATTERN = rf"^(FREQ=(HOURLY|DAILY|WEEKLY|MONTHLY|YEARLY){_OFTEN}|{_ON_DAYS})$"
ZONE_PATTERN = (
    r"^(UTC|Europe/(Berlin|London|Paris)|America/(New_York|Los_Angeles)|Asia/(Kolkata|Tokyo)|Australia/Sydney)$"
)
_TAG_PATTERN = r"^[a-z0-9]([a-z0-9 _.-]{0,20}[a-z0-9])?$"
_PLAN: dict[str, dict[str, Any]] = {
    "title": {"pattern": TITLE_PATTERN},
    "tags": {"items": {"type": "string", "pattern": _TAG_PATTERN}},
    "start": {"pattern": _MOMENT_PATTERN},
    "end": {"pattern": _MOMENT_PATTERN},
    "rrule": {"pattern": RULE_PATTERN, "example": "FREQ=WEEKLY;BYDAY=SU"},
    "timezone": {"pattern": ZONE_PATTERN, "example": "Europe/Berlin"},
}
_NOTHING = {"enum": [None], "nullable": True}
_ONCE_OR_AGAIN = [
    {
        "required": ["end"],
        "properties": {"end": {"type": "string"}, "rrule": _NOTHING, "duration": _NOTHING, "timezone": _NOTHING},
    },
    {
        "required": ["rrule", "duration"],
        "properties": {"rrule": {"type": "string"}, "duration": {"type": "integer"}, "end": _NOTHING},
    },
]
_FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    "Check": _CHECK,
    "PatchTarget": _CHECK,
    "BasicAuth": {"username": {"pattern": USERNAME_PATTERN}, "password": {"pattern": PLAIN_PATTERN}},
    "BearerAuth": {"token": {"pattern": PLAIN_PATTERN}},
    "PostAcknowledgement": {name: {"pattern": WORDS_PATTERN} for name in ("by", "note")},
    "MaintenancePlan": _PLAN,
}
_EITHER = [
    {"required": [one], "properties": {one: {"type": "integer"}, other: {"enum": [None], "nullable": True}}}
    for one, other in (("min", "max"), ("max", "min"))
]
_BODILESS = {
    "required": ["method", "body"],
    "properties": {"method": {"enum": ["HEAD", "OPTIONS"]}, "body": {"type": "object"}},
}


def narrow(components: dict[str, Any]) -> None:
    """Put the rules into the schemas of ``/openapi.json``."""
    for model, fields in _FIELDS.items():
        for name, rules in fields.items():
            components[model]["properties"][name].update(rules)
    for model in ("Check", "PatchTarget"):
        components[model]["not"] = _BODILESS
    components["JsonBody"]["properties"]["content"] = _JSON
    components.pop("JsonValue", None)
    for schema in _within(components):
        if schema.get("format") == "json-path":
            # The pattern bounds the length too, and a tool that makes one rule of both writes no valid pattern.
            schema["pattern"] = JSON_PATH_PATTERN
            del schema["minLength"], schema["maxLength"]
    for name in ("min", "max"):
        components["BodySize"]["properties"][name]["nullable"] = True
    components["BodySize"]["anyOf"] = _EITHER
    components["MaintenancePlan"]["anyOf"] = _ONCE_OR_AGAIN
    components["PostQueue"]["minProperties"] = 1
    # Too many targets are 413 and not 422, which readers of a schema expect for what breaks it.
    components["PostStatus"]["properties"]["targets"].pop("maxItems")


def _within(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema."""
    if isinstance(schema, dict):
        yield schema
        for each in list(schema.values()):
            yield from _within(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _within(each)
