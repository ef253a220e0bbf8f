"""How one endpoint is checked: the one schema of a target at both doors and in the snapshot. Pure.

Every field but the endpoint is optional. ``SECRETS`` says which of them may hold what nobody is to see;
:func:`shown` is how a check is shown.
"""

from __future__ import annotations

import binascii
import re
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
)
from pydantic.functional_validators import AfterValidator, model_validator

from shared.assertions import Assertion
from shared.endpoint import (
    MASK,
    check_endpoint,
    check_title,
    is_credential,
    is_plain_text,
    looks_secret,
    redact,
    redact_header,
)

RETRYABLE_CODES = (501, 502, 503, 504)
LONGEST_TIMEOUT_SECONDS = 300
SECRETS = {"auth", "body", "ca_certificate", "client_certificate", "headers", "proxy", "user_agent"}
"""The fields whose values no message shows, also where they are refused."""
EXPECTATIONS = ("value", "pattern")
"""The fields of an assertion that say what is expected; no message shows those either."""
_LARGEST_BODY = 64 * 1024
_LARGEST_PEM = 64 * 1024
_MOST_HEADERS = 50
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # token, RFC 9110 5.6.2
_HOP_BY_HOP = {
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s.+?-----END \1-----", re.DOTALL)
_LONG_WORD = re.compile(r"[A-Za-z0-9+/_-]{40,}")
_HEX_DUMP = re.compile(r"(?:[0-9A-Fa-f]{2}:){14}")
_SEQUENCE, _INTEGER = 0x30, b"\x02"  # DER's tags
_CODES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _refuse_mask(text: str) -> str:
    """What we show in place of a secret is never one: somebody sends back what an answer showed."""
    if MASK in text:
        raise ValueError(f"must not hold {MASK}, which stands for a secret that is not shown")
    return text


class ContradictionError(ValueError):
    """Fields of a check that do not go together."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule
        self.index = 0
        """Which of many checks it is; set by whoever has many."""


TRUSTED = {"is_trusted": True}
"""The context in which a check is validated that was valid when it was stored: the slow rules are not asked again."""


def _check_endpoint(endpoint: str, info: ValidationInfo) -> str:
    if info.context is TRUSTED:
        return endpoint
    return check_endpoint(endpoint)


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > _MOST_HEADERS:
        raise ValueError(f"must be at most {_MOST_HEADERS} headers")
    if len({name.lower() for name in headers}) != len(headers):
        raise ValueError("must name each header once")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            # The name is not shown: who sends a whole line as a name sends its secret with it.
            raise ValueError("must have header names as RFC 9110 has them")
        if name.lower() in _HOP_BY_HOP:
            raise ValueError(f"must not set {name}, which belongs to the connection")
        if len(value) > 8192 or not is_plain_text(value) or value != value.strip():
            raise ValueError(f"must have a plain value of at most 8192 characters for {name}, without spaces around it")
        _refuse_mask(value)
    return headers


def _check_codes(codes: tuple[int | str, ...]) -> tuple[int | str, ...]:
    for code in codes:
        match = _CODES.fullmatch(str(code))
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f'must hold status codes and ranges such as "200-299" (one is {str(code)[:20]!r})')
    return codes


def _check_pem(pem: str) -> str:
    _refuse_mask(pem)
    blocks = [match for match in _PEM_BLOCK.finditer(pem) if match[1] == "CERTIFICATE"]
    try:
        for block in blocks:
            ssl.PEM_cert_to_DER_cert(block[0])
    except (ValueError, binascii.Error):
        raise ValueError("must hold certificates in PEM") from None
    if not blocks:
        raise ValueError("must hold a certificate in PEM")
    return pem


def _check_authorities(pem: str, info: ValidationInfo) -> str:
    _check_pem(pem)
    if info.context is not TRUSTED and _holds_key(pem):
        raise ValueError("must hold nothing but certificates, for it is shown: no key, and nothing that looks like one")
    return pem


def _holds_key(pem: str) -> bool:
    """Whether there is more than certificates: another block, a part of one, or a long word that may be of a key.

    Words between the blocks are usual, such as the names of the authorities.
    """
    blocks = list(_PEM_BLOCK.finditer(pem))
    if any(block[1] != "CERTIFICATE" or _is_key(block[0]) for block in blocks):
        return True
    between = _PEM_BLOCK.sub(" ", pem)
    return (
        "PRIVATE KEY" in between.upper()
        or "-----BEGIN" in between
        or _HEX_DUMP.search(between) is not None
        or any(any(map(str.isdecimal, word)) for word in _LONG_WORD.findall(between))
    )


def _is_key(block: str) -> bool:
    """Whether a block that says it is a certificate begins as every private key does: with the number of a version."""
    try:
        der = ssl.PEM_cert_to_DER_cert(block)
    except (ValueError, binascii.Error):
        return True
    if len(der) < 2:
        return False
    first = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    return der[0] == _SEQUENCE and der[first : first + 1] == _INTEGER


def _check_client_pem(pem: str) -> str:
    _check_pem(pem)
    kinds = [match[1] for match in _PEM_BLOCK.finditer(pem)]
    if sum(kind.endswith("PRIVATE KEY") for kind in kinds) != 1:
        raise ValueError("must hold the certificate and its one private key, both in PEM")
    if "ENCRYPTED PRIVATE KEY" in kinds or "Proc-Type: 4,ENCRYPTED" in pem:
        raise ValueError("must hold a private key that is not encrypted")
    return pem


def _check_proxy(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https", "socks5", "socks5h") or urlsplit(url).path not in ("", "/"):
        raise ValueError("must be the URL of a proxy: http, https, socks5 or socks5h, a host and a port")
    check_endpoint(f"http://{rest}")
    return url


def _check_assertions(assertions: tuple[Assertion, ...], info: ValidationInfo) -> tuple[Assertion, ...]:
    for place, assertion in enumerate(assertions if info.context is not TRUSTED else ()):
        for name in EXPECTATIONS:
            if getattr(assertion, name, None) == MASK:
                rule = f"must not have the {name} {MASK} at {place}, which stands for a secret that is not shown"
                raise ValueError(rule)
    return assertions


def _check_plain(text: str) -> str:
    if not is_plain_text(text):
        raise ValueError("must not hold control, separator or bidirectional characters")
    return _refuse_mask(text)


def check_mail_address(address: str) -> str:
    if not address.isprintable() or address.count("@") < 1 or address.startswith("@") or address.endswith("@"):
        raise ValueError("must be a mail address")
    return address


def _check_tag(tag: str) -> str:
    if tag != tag.strip() or not is_plain_text(tag) or set(tag) & set(",;="):
        raise ValueError("must be plain words without commas, semicolons and equals signs")
    return tag


Title = Annotated[StrictStr, Field(max_length=200), AfterValidator(check_title)]
Endpoint = Annotated[StrictStr, Field(min_length=1, max_length=2048), AfterValidator(_check_endpoint)]
StatusCode = Annotated[StrictInt, Field(ge=100, le=599)]
IntervalSeconds = Annotated[StrictInt, Field(ge=5, le=86_400)]
TimeoutSeconds = Annotated[StrictInt | StrictFloat, Field(gt=0, le=LONGEST_TIMEOUT_SECONDS, allow_inf_nan=False)]
BackoffFactor = Annotated[StrictInt | StrictFloat, Field(ge=0, le=120, allow_inf_nan=False)]
Retries = Annotated[StrictInt, Field(ge=0, le=3)]
ErrorCode = Literal[501, 502, 503, 504]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Headers = Annotated[dict[StrictStr, StrictStr], AfterValidator(_check_headers)]
Codes = Annotated[tuple[StrictInt | StrictStr, ...], Field(min_length=1, max_length=50), AfterValidator(_check_codes)]
Pem = Annotated[StrictStr, Field(max_length=_LARGEST_PEM), AfterValidator(_check_authorities)]
ClientPem = Annotated[StrictStr, Field(max_length=_LARGEST_PEM), AfterValidator(_check_client_pem)]
Proxy = Annotated[StrictStr, Field(max_length=2048), AfterValidator(_check_proxy)]
Secret = Annotated[StrictStr, Field(max_length=4096), AfterValidator(_check_plain)]
Tag = Annotated[StrictStr, Field(min_length=1, max_length=50), AfterValidator(_check_tag)]
Recipient = Annotated[StrictStr, Field(max_length=254), AfterValidator(check_mail_address)]
Threshold = Annotated[StrictInt, Field(ge=1, le=100)]
UserAgent = Annotated[StrictStr, Field(min_length=1, max_length=256), AfterValidator(_check_plain)]


def _refuse_mask_alone(content: JsonValue) -> JsonValue:
    """In a body the mask may stand among other text, but what is nothing else is what an answer showed."""
    if content == MASK:
        raise ValueError(f"must not be {MASK}, which stands for a secret that is not shown")
    return content


def _check_json(content: JsonValue) -> JsonValue:
    """Only what every JSON reader of ours gives back as it is, so that what is sent stays what was given."""
    try:
        orjson.dumps(content)
    except TypeError:
        raise ValueError("must hold integers of at most 64 bits, and nest at most 250 levels deep") from None
    return _refuse_mask_alone(content)


class TextBody(_Frozen):
    """Sent as it is, in UTF-8, as text/plain unless a header says otherwise."""

    type: Literal["text"]
    content: Annotated[StrictStr, Field(max_length=_LARGEST_BODY), AfterValidator(_refuse_mask_alone)]


class JsonBody(_Frozen):
    """Sent as JSON, as application/json unless a header says otherwise."""

    type: Literal["json"]
    content: Annotated[JsonValue, AfterValidator(_check_json)]


class FormBody(_Frozen):
    """Sent as application/x-www-form-urlencoded."""

    type: Literal["form"]
    content: Annotated[dict[StrictStr, StrictStr], Field(max_length=100)]


class BasicAuth(_Frozen):
    """RFC 7617."""

    type: Literal["basic"]
    username: Annotated[Secret, Field(pattern=r"^[^:]*$")]
    password: Secret


class BearerAuth(_Frozen):
    """RFC 6750."""

    type: Literal["bearer"]
    token: Annotated[Secret, Field(min_length=1)]


Body = Annotated[TextBody | JsonBody | FormBody, Field(discriminator="type")]
Auth = Annotated[BasicAuth | BearerAuth, Field(discriminator="type")]


class Check(_Frozen):
    """How one endpoint is checked, in the words of ``POST /status``.

    A field that is ``None`` follows the setting of the same meaning (``DEFAULT_HTTP_INTERVAL`` and so on), also when
    that setting changes later, or the ordinary behaviour.
    """

    title: Title | None = None
    endpoint: Endpoint
    expected_http_code: StatusCode | None = None
    expected_http_codes: Codes | None = Field(
        default=None, description='Codes and ranges such as "200-299"; decides in place of expected_http_code.'
    )
    interval: IntervalSeconds | None = Field(default=None, description="Seconds between two checks.")
    timeout: TimeoutSeconds | None = Field(default=None, description="Seconds that one attempt may take as a whole.")
    retries: Retries | None = Field(default=None, description="Further attempts after the first.")
    backoff_factor: BackoffFactor | None = Field(default=None, description="urllib3's Retry(backoff_factor), seconds.")
    error_codes: tuple[ErrorCode, ...] | None = Field(default=None, description="Status codes worth another attempt.")
    method: Method | None = Field(default=None, description="GET unless given.")
    headers: Headers | None = None
    user_agent: UserAgent | None = None
    body: Body | None = None
    auth: Auth | None = None
    follow_redirects: StrictBool | None = Field(
        default=None, description="Unless given, redirects are followed where none is expected."
    )
    max_redirects: Annotated[StrictInt, Field(ge=0, le=20)] | None = Field(default=None, description="10 unless given.")
    verify_tls: StrictBool | None = Field(default=None, description="Certificates are verified unless this is false.")
    ca_certificate: Pem | None = Field(
        default=None, description="Authorities to trust in place of the usual ones, PEM."
    )
    client_certificate: ClientPem | None = Field(default=None, description="Certificate and private key, PEM.")
    ip_version: Literal[4, 6] | None = None
    http_version: Literal["1.0", "1.1", "2"] | None = None
    proxy: Proxy | None = None
    degraded_ms: Annotated[StrictInt, Field(ge=1, le=3_600_000)] | None = Field(
        default=None, description="A good answer slower than this is `degraded`, which is not down."
    )
    assertions: Annotated[tuple[Assertion, ...], Field(max_length=20), AfterValidator(_check_assertions)] | None = (
        Field(default=None, description="What must hold of the answer beside its status code.")
    )
    failure_threshold: Threshold | None = Field(default=None, description="Failed checks in a row that make it down.")
    success_threshold: Threshold | None = Field(default=None, description="Good checks in a row that make it up again.")
    second_opinion: StrictBool | None = Field(
        default=None, description="Whether one more check, made at once, has to fail before it is down."
    )
    tags: Annotated[tuple[Tag, ...], Field(max_length=20)] | None = None
    recipients: Annotated[tuple[Recipient, ...], Field(max_length=20)] | None = Field(
        default=None, description="Who is mailed beside MAIL_RECIPIENTS."
    )
    parent: Annotated[Title, Field(min_length=1)] | None = Field(
        default=None, description="The id, or the one title, of the target without which this one cannot be reached."
    )
    paused: StrictBool = False

    @model_validator(mode="after")
    def _hold_together(self, info: ValidationInfo) -> Check:
        if info.context is not TRUSTED:
            self._refuse_contradictions()
        return self

    def _refuse_contradictions(self) -> None:
        if self.auth is not None and "@" in urlsplit(self.endpoint).netloc:
            raise ContradictionError("auth", "must not be given beside a user name in the endpoint")
        if self.auth is not None and any(name.lower() == "authorization" for name in self.headers or {}):
            raise ContradictionError("auth", "must not be given beside an Authorization header")
        if self.user_agent is not None and any(name.lower() == "user-agent" for name in self.headers or {}):
            raise ContradictionError("user_agent", "must not be given beside a User-Agent header")
        if self.body is not None and self.method in ("HEAD", "OPTIONS"):
            raise ContradictionError("body", f"must not be given with {self.method}")

    def document(self) -> dict[str, Any]:
        """The check as JSON, secrets and all, as it is stored: what is None is left out, but not in its body."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}

    def changed(self, fields: Mapping[str, Any]) -> Check:
        """The check with these fields in place of its own; raises ContradictionError where they do not go together."""
        changed = self.model_copy(update=dict(fields))
        changed._refuse_contradictions()
        return changed

    def expects(self, code: int, default: int) -> bool:
        """Whether a status code is one of those expected; ``default`` where the check names none."""
        if self.expected_http_codes is None:
            return code == (default if self.expected_http_code is None else self.expected_http_code)
        return any(low <= code <= high for low, high in map(_bounds, self.expected_http_codes))

    def expected_number(self, default: int) -> int:
        """One of the codes that are expected, for whoever has room for one number."""
        code = default if self.expected_http_code is None else self.expected_http_code
        if self.expected_http_codes is None or self.expects(code, default):
            return code
        return _bounds(self.expected_http_codes[0])[0]

    def expectation(self, default: int) -> str:
        """What is expected, for people: ``200`` or ``200-299, 404``."""
        if self.expected_http_codes is not None:
            return ", ".join(str(code) for code in self.expected_http_codes)
        return str(default if self.expected_http_code is None else self.expected_http_code)


def _bounds(code: int | str) -> tuple[int, int]:
    low, _, high = str(code).partition("-")
    return int(low), int(high or low)


def shown(check: Check) -> dict[str, Any]:
    """The check as JSON with every secret masked: what answers, pages, events and mails may hold.

    Bodies, credentials and private keys are masked whole; header values where the name or the look tells a secret;
    URLs as :func:`shared.endpoint.redact` does; likewise what assertions expect.
    """
    document = check.model_dump(mode="json")
    document["endpoint"] = redact(check.endpoint)
    if check.headers is not None:
        document["headers"] = {name: redact_header(name, value) for name, value in check.headers.items()}
    if check.body is not None:
        document["body"] = {"type": check.body.type, "content": MASK}
    if isinstance(check.auth, BasicAuth):
        document["auth"] = {"type": "basic", "username": MASK, "password": MASK}
    if isinstance(check.auth, BearerAuth):
        document["auth"] = {"type": "bearer", "token": MASK}
    if check.client_certificate is not None:
        document["client_certificate"] = MASK
    if check.proxy is not None:
        document["proxy"] = redact(check.proxy)
    if check.ca_certificate is not None and _holds_key(check.ca_certificate):
        document["ca_certificate"] = MASK  # One from before keys were refused.
    if check.user_agent is not None and looks_secret(check.user_agent):
        document["user_agent"] = MASK
    if check.assertions is not None:
        document["assertions"] = [_shown_assertion(assertion) for assertion in check.assertions]
    return document


def _shown_assertion(assertion: Assertion) -> dict[str, Any]:
    """Texts are masked as those of headers are; numbers and the rest of an assertion are thresholds."""
    document = assertion.model_dump(mode="json")
    for name in ("path", *EXPECTATIONS):
        value = document.get(name)
        if not isinstance(value, str):
            continue
        is_secret = name in EXPECTATIONS and (assertion.is_secret or is_credential(value))
        if is_secret or looks_secret(value):
            document[name] = MASK
    return document
