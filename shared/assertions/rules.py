"""The assertions: their schema, what each expects in words, and its judgement. Pure."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from jsonpath_rfc9535.selectors import NameSelector
from pydantic import BaseModel, ConfigDict, Field
from pydantic.functional_validators import AfterValidator, model_validator
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypeAliasType

from shared.assertions.accepted import check_path, check_pattern, compiled, query
from shared.assertions.reading import LARGEST_BODY, Conceal, Reading, UndecidedError, bytes_of, is_number, quoted, shown
from shared.endpoint import MASK, is_credential, is_plain_text, is_secret_header, looks_secret, names_secret

Text = Annotated[str, Field(min_length=1, max_length=1000)]
Pattern = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        description="A regular expression in RE2's syntax, found anywhere in the text; (?i) ignores case.",
        json_schema_extra={"format": "re2"},
    ),
    AfterValidator(check_pattern),
]
Path = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^\$",
        description="An RFC 9535 path: one selector in each pair of brackets, '..' once at the most, filters that "
        "compare names and indexes with literals, no function but length().",
        examples=["$.status", "$.services[*].healthy", "$.jobs[?@.state == 'failed']"],
        json_schema_extra={"format": "json-path"},
    ),
    AfterValidator(check_path),
]
HeaderName = Annotated[str, Field(max_length=128, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]  # token, RFC 9110 5.6.2
# 64 bits: orjson reads what is beyond them as a float, and writes it not at all.
Whole = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
Decimal = Annotated[float, Field(allow_inf_nan=False)]


class _Rule(BaseModel):
    """One assertion: its name and what it expects, for people, and what was found in place of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def is_secret(self) -> bool:
        """Whether what it looks at is called like a secret, so that no value of it is shown."""
        return False

    @abstractmethod
    def label(self, conceal: Conceal) -> str: ...

    @abstractmethod
    def expected(self, conceal: Conceal) -> str: ...

    @property
    def weight(self) -> int:
        """About how much work a byte of the body is, the search for a text being 1."""
        return 1

    @abstractmethod
    def judge(self, reading: Reading) -> str | None:
        """What was found in place of what is expected; None when the assertion holds."""


class BodyText(_Rule):
    """The body, decoded as its Content-Type says or as UTF-8, holds this text, or does not. Case matters."""

    type: Literal["body_contains", "body_not_contains"]
    value: Text

    def label(self, conceal: Conceal) -> str:
        return (
            f"body {'contains' if self.type == 'body_contains' else 'does not contain'} {quoted(self.value, conceal)}"
        )

    def expected(self, conceal: Conceal) -> str:
        return "this text" if self.type == "body_contains" else "a body without it"

    def judge(self, reading: Reading) -> str | None:
        position = reading.find(self.value)
        if self.type == "body_contains":
            return f"{reading.size} without it" if position < 0 else None
        return f"it after {position:,} characters" if position >= 0 else None


class BodyPattern(_Rule):
    """The body, decoded likewise, has a match of this regular expression, or has none."""

    type: Literal["body_matches", "body_not_matches"]
    pattern: Pattern

    def label(self, conceal: Conceal) -> str:
        return f"body {'matches' if self.type == 'body_matches' else 'does not match'} {quoted(self.pattern, conceal)}"

    def expected(self, conceal: Conceal) -> str:
        return "a match" if self.type == "body_matches" else "no match"

    @property
    def weight(self) -> int:
        return int(compiled(self.pattern).programsize)

    def judge(self, reading: Reading) -> str | None:
        match = reading.search(self.pattern, reading.utf8)
        if self.type == "body_matches":
            return f"none in {reading.size}" if match is None else None
        return quoted(match, reading.answer.conceal) if match is not None else None


class _Json(_Rule):
    """Something of the body as JSON. A path has to select something, and what holds has to hold for all of it."""

    type: Literal["json"]
    path: Path
    operator: str

    @property
    def weight(self) -> int:
        return 100

    def label(self, conceal: Conceal) -> str:
        path = (
            MASK if looks_secret(self.path) else self.path if is_plain_text(self.path) else quoted(self.path, conceal)
        )
        return f"json {path} {self.operator.replace('_', ' ')}"

    @property
    def is_secret(self) -> bool:
        selectors = (segment.selectors[0] for segment in query(self.path).segments)
        return any(isinstance(selector, NameSelector) and names_secret(selector.name) for selector in selectors)

    def judge(self, reading: Reading) -> str | None:
        found = "nothing there"
        for value in reading.select(self.path):
            found = ""
            if not self.holds(value, reading):
                return shown(value, reading.answer.conceal, secret=self.is_secret)
        return found or None

    def holds(self, value: object, reading: Reading) -> bool:
        raise NotImplementedError


class JsonEquality(_Json):
    """Everything that the path selects equals this value, or differs from it: 1 equals 1.0, and true is no number."""

    operator: Literal["equals", "not_equals"]
    value: bool | Whole | Decimal | Annotated[str, Field(max_length=1000)]

    def expected(self, conceal: Conceal) -> str:
        value = shown(self.value, conceal, secret=self.is_secret)
        return value if self.operator == "equals" else f"anything but {value}"

    def holds(self, value: object, reading: Reading) -> bool:
        equal = isinstance(value, bool) == isinstance(self.value, bool) and value == self.value
        return equal == (self.operator == "equals")


class JsonComparison(_Json):
    """Everything that the path selects is a number on this side of the value."""

    operator: Literal["less_than", "greater_than", "at_least", "at_most"]
    value: Whole | Decimal

    def expected(self, conceal: Conceal) -> str:
        return f"a number {self.operator.replace('_', ' ')} {shown(self.value)}"

    def holds(self, value: object, reading: Reading) -> bool:
        if not isinstance(value, int | float) or not is_number(value):
            return False
        match self.operator:
            case "less_than":
                return value < self.value
            case "greater_than":
                return value > self.value
            case "at_least":
                return value >= self.value
            case "at_most":
                return value <= self.value


class JsonText(_Json):
    """Everything that the path selects is a text that holds this one, or an array with this text as an element."""

    operator: Literal["contains"]
    value: Text

    def expected(self, conceal: Conceal) -> str:
        return f"a text or an array with {quoted(self.value, conceal, secret=self.is_secret)} in it"

    def holds(self, value: object, reading: Reading) -> bool:
        if isinstance(value, list):
            reading.spend(len(value) // 8)
        return isinstance(value, str | list) and self.value in value


class JsonPattern(_Json):
    """Everything that the path selects is a text with a match of this regular expression."""

    operator: Literal["matches"]
    value: Pattern

    def expected(self, conceal: Conceal) -> str:
        return f"a text that matches {quoted(self.value, conceal)}"

    def holds(self, value: object, reading: Reading) -> bool:
        return isinstance(value, str) and reading.search(self.value, value.encode()) is not None


class JsonPresence(_Json):
    """The path selects something or nothing; or everything that it selects is null, or nothing of it is."""

    operator: Literal["exists", "not_exists", "is_null", "is_not_null"]

    def expected(self, conceal: Conceal) -> str:
        return {
            "exists": "something",
            "not_exists": "nothing there",
            "is_null": "null",
            "is_not_null": "anything but null",
        }[self.operator]

    def judge(self, reading: Reading) -> str | None:
        if self.operator != "not_exists":
            return super().judge(reading)
        for value in reading.select(self.path):
            return shown(value, reading.answer.conceal, secret=self.is_secret)
        return None

    def holds(self, value: object, reading: Reading) -> bool:
        return self.operator == "exists" or (value is None) == (self.operator == "is_null")


class _Header(_Rule):
    """A header of the answer. Of several values of one name it is enough that one holds."""

    type: Literal["header"]
    name: HeaderName
    operator: str

    def label(self, conceal: Conceal) -> str:
        return f"header {self.name} {self.operator.replace('_', ' ')}"

    @property
    def is_secret(self) -> bool:
        return is_secret_header(self.name)

    def values(self, reading: Reading) -> list[str]:
        return [value for name, value in reading.answer.headers if name.lower() == self.name.lower()]

    def shown(self, values: list[str], conceal: Conceal) -> str:
        def told(value: str) -> str:
            return quoted(value, conceal, secret=self.is_secret or is_credential(value))

        return ", ".join(told(value) for value in values[:5]) or "no such header"


class HeaderText(_Header):
    """A value of this header equals this text or contains it; not_equals: there are values, and none equals it."""

    operator: Literal["equals", "not_equals", "contains"]
    value: Text

    def expected(self, conceal: Conceal) -> str:
        words = {"equals": "", "not_equals": "anything but ", "contains": "a value with "}
        return words[self.operator] + self.shown([self.value], conceal)

    def judge(self, reading: Reading) -> str | None:
        values = self.values(reading)
        if self.operator == "contains":
            holds = any(self.value in value for value in values)
        elif self.operator == "equals":
            holds = self.value in values
        else:
            holds = bool(values) and self.value not in values
        return None if holds else self.shown(values, reading.answer.conceal)


class HeaderPattern(_Header):
    """A value of this header has a match of this regular expression."""

    operator: Literal["matches"]
    value: Pattern

    def expected(self, conceal: Conceal) -> str:
        return f"a value that matches {quoted(self.value, conceal)}"

    def judge(self, reading: Reading) -> str | None:
        values = self.values(reading)
        holds = any(reading.search(self.value, value.encode(errors="replace")) is not None for value in values)
        return None if holds else self.shown(values, reading.answer.conceal)


class HeaderPresence(_Header):
    """The answer has this header, or has it not."""

    operator: Literal["exists", "not_exists"]

    def expected(self, conceal: Conceal) -> str:
        return "such a header" if self.operator == "exists" else "no such header"

    def judge(self, reading: Reading) -> str | None:
        values = self.values(reading)
        return None if bool(values) == (self.operator == "exists") else self.shown(values, reading.answer.conceal)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


_LIMIT = Field(default=None, json_schema_extra=_without_default)  # A default of null would not fit its own schema.


class BodySize(_Rule):
    """The decoded body has so many bytes at the least, at the most, or both; only its first MiB is counted."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["min"]}, {"required": ["max"]}]})

    type: Literal["body_size"]
    min: Annotated[int, Field(ge=0, le=LARGEST_BODY)] | SkipJsonSchema[None] = _LIMIT
    max: Annotated[int, Field(ge=0, lt=LARGEST_BODY)] | SkipJsonSchema[None] = _LIMIT

    @model_validator(mode="after")
    def _hold_together(self) -> BodySize:
        if self.min is None and self.max is None:
            raise ValueError("must have min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("must have a min that is not above max")
        return self

    def label(self, conceal: Conceal) -> str:
        return "body size"

    def expected(self, conceal: Conceal) -> str:
        least = None if self.min is None else f"at least {bytes_of(self.min)}"
        most = None if self.max is None else f"at most {bytes_of(self.max)}"
        return " and ".join(filter(None, (least, most)))

    def judge(self, reading: Reading) -> str | None:
        size = len(reading.answer.body)
        holds = (self.min is None or size >= self.min) and (self.max is None or size <= self.max)
        return None if holds else bytes_of(size) + (" and maybe more" if size >= LARGEST_BODY else "")


class ResponseTime(_Rule):
    """The answer was complete within so many milliseconds."""

    type: Literal["max_response_ms"]
    value: Annotated[int, Field(ge=1, le=3_600_000)]

    def label(self, conceal: Conceal) -> str:
        return "response time"

    def expected(self, conceal: Conceal) -> str:
        return f"at most {self.value:,} ms"

    def judge(self, reading: Reading) -> str | None:
        elapsed, lost = reading.answer.elapsed_ms, reading.answer.lost_ms
        if elapsed - lost <= self.value < elapsed:
            raise UndecidedError(f"of {elapsed:,.0f} ms the monitor itself was held up for {lost:,.0f} ms")
        return None if elapsed <= self.value else f"{elapsed:,.1f} ms"


class CertificateDays(_Rule):
    """The server's certificate is valid for at least so many days from now. Without TLS there is none."""

    type: Literal["certificate_days"]
    value: Annotated[int, Field(ge=1, le=3650)]

    def label(self, conceal: Conceal) -> str:
        return "certificate"

    def expected(self, conceal: Conceal) -> str:
        return f"valid for at least {self.value:,} day{'' if self.value == 1 else 's'}"

    def judge(self, reading: Reading) -> str | None:
        days = reading.answer.certificate_days
        if days is None:
            return "no certificate, for there is no TLS"
        if days >= self.value:
            return None
        return f"expired {-days:,.2f} days ago" if days < 0 else f"valid for {days:,.2f} days"


# Named types, because a discriminator's mapping in OpenAPI can only point to names.
Json = TypeAliasType(
    "Json",
    Annotated[
        JsonEquality | JsonComparison | JsonText | JsonPattern | JsonPresence,
        Field(discriminator="operator", description="A part of the body as JSON, by the operator."),
    ],
)
Header = TypeAliasType(
    "Header",
    Annotated[
        HeaderText | HeaderPattern | HeaderPresence,
        Field(discriminator="operator", description="A header of the answer, by the operator."),
    ],
)
Assertion = Annotated[
    BodyText | BodyPattern | Json | Header | BodySize | ResponseTime | CertificateDays, Field(discriminator="type")
]
