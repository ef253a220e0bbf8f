"""Every setting of the monitor, and the only reader of the environment. Pure but for that one read.

Values come from environment variables and, behind them, from ``.env`` in the working folder. A bad value raises
:class:`SettingsError`, which names the variable, the rule and the value (never a password).
"""

from __future__ import annotations

import os
import re
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.check import RETRYABLE_CODES, Check, check_mail_address
from shared.endpoint import check_endpoint
from shared.monitor import MonitorError
from shared.state import Policy

_LONGEST_SOCKET_PATH = 100  # sun_path of unix(7) holds 108 bytes


class SettingsError(MonitorError):
    """A setting that cannot be used; the text names each variable, its rule and its value."""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_public_url(url: str) -> str:
    """Where people reach the pages; the slash at its end does not matter."""
    check_endpoint(url)
    if urlsplit(url).query or urlsplit(url).fragment:
        raise ValueError("must be a URL without a query")
    return url.rstrip("/")


def _check_webhook(url: SecretStr) -> SecretStr:
    check_endpoint(url.get_secret_value())
    return url


MailAddress = Annotated[str, AfterValidator(check_mail_address)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """One attribute a variable; the attribute is the variable's name in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=False
    )

    api_host: str = "127.0.0.1"
    api_port: Port = 5000
    api_token: SecretStr | None = None
    api_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    redis_url: str | None = None
    data_dir: Path = Path("./data")
    default_http_config: Path | None = None
    default_http_interval: Annotated[int, Field(ge=5, le=86_400)] = 300
    default_http_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    default_http_status_code: Annotated[int, Field(ge=100, le=599)] = 200
    default_http_retries: Annotated[int, Field(ge=0, le=3)] = 3
    default_backoff_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.3
    default_error_codes: Annotated[tuple[int, ...], NoDecode] = (504,)
    mail_server: str | None = None
    mail_port: Port = 25
    mail_username: str | None = None
    mail_password: SecretStr | None = None
    mail_use_tls: bool = False
    mail_use_ssl: bool = False
    mail_default_sender: MailAddress | None = None
    mail_recipients: Annotated[tuple[MailAddress, ...], NoDecode] = ()
    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = None
    notify_urls: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    webhook_url: Annotated[SecretStr, AfterValidator(_check_webhook)] | None = None
    webhook_secret: SecretStr | None = None
    mail_tag_recipients: Annotated[dict[str, tuple[MailAddress, ...]], NoDecode] = Field(default_factory=dict)
    failure_threshold: Annotated[int, Field(ge=1, le=100)] = 1
    success_threshold: Annotated[int, Field(ge=1, le=100)] = 1
    second_opinion: bool = True
    flap_count: Annotated[int, Field(ge=0, le=100)] = 6
    flap_window: Annotated[int, Field(ge=10, le=86_400)] = 3600
    alert_reminder: Annotated[int, Field(ge=0, le=2_592_000)] = 0
    heartbeat_url: Annotated[str, AfterValidator(check_endpoint)] | None = None
    alert_group_wait: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10.0
    block_private_networks: bool = False
    max_per_host: Annotated[int, Field(ge=1, le=1000)] = 10
    canary_urls: Annotated[tuple[Annotated[str, AfterValidator(check_endpoint)], ...], NoDecode] = ()

    @field_validator("api_allowed_hosts", "canary_urls", "default_error_codes", "mail_recipients", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("notify_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: object) -> object:
        # These URLs may hold commas of their own: one separates only before the scheme of the next.
        return re.split(r"[,\s]+(?=[\w+.-]+://)", value.strip()) if isinstance(value, str) else value

    @field_validator("mail_tag_recipients", mode="before")
    @classmethod
    def _split_tags(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found: dict[str, tuple[str, ...]] = {}
        for part in filter(None, map(str.strip, value.split(";"))):
            tag, equals, addresses = part.partition("=")
            if not equals or not tag.strip():
                raise ValueError("must look like tag=a@example.org,b@example.org; other=c@example.org")
            found[tag.strip()] = tuple(each.strip() for each in addresses.split(",") if each.strip())
        return found

    @field_validator("default_error_codes")
    @classmethod
    def _are_retryable(cls, codes: tuple[int, ...]) -> tuple[int, ...]:
        for code in codes:
            if code not in RETRYABLE_CODES:
                raise ValueError("may hold 501, 502, 503 and 504 and nothing else")
        return codes

    @field_validator("api_token")
    @classmethod
    def _is_plain_ascii(cls, token: SecretStr | None) -> SecretStr | None:
        # Clients disagree over the bytes of anything else in a header.
        if token is not None and not (token.get_secret_value().isascii() and token.get_secret_value().isprintable()):
            raise ValueError("must hold printable ASCII characters only")
        return token

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        try:
            _ = urlsplit(url or "").port
        except ValueError:
            raise ValueError("must have a port between 0 and 65535, or none") from None
        return url

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.api_token is None and not _is_loopback(self.api_host):
            raise ValueError(
                f"API_HOST: may be another address than loopback only when API_TOKEN is set (it is {self.api_host!r})"
            )
        if self.mail_use_tls and self.mail_use_ssl:
            raise ValueError("MAIL_USE_TLS: STARTTLS excludes MAIL_USE_SSL (both are true)")
        if self.is_redis_embedded and len(os.fsencode(self.socket_path)) > _LONGEST_SOCKET_PATH:
            longest = _LONGEST_SOCKET_PATH - len("/valkey.sock")
            raise ValueError(
                f"DATA_DIR: must be at most {longest} bytes long as an absolute path (it is {str(self.data_dir)!r})"
            )
        return self

    @property
    def is_redis_embedded(self) -> bool:
        return self.redis_url is None

    @property
    def socket_path(self) -> Path:
        """Where the embedded server listens."""
        return self.data_dir.absolute() / "valkey.sock"

    @property
    def redis(self) -> str:
        """The URL of the Redis in use, the embedded one included."""
        return self.redis_url or f"unix://{self.socket_path}"

    @property
    def snapshot_path(self) -> Path:
        return self.default_http_config or self.data_dir / "targets.json"

    @property
    def mail_folder(self) -> Path:
        """Where mails are written as ``.eml`` files while no ``MAIL_SERVER`` is set."""
        return self.data_dir / "mail"

    def interval(self, check: Check) -> int:
        """Seconds between two checks of a target."""
        return check.interval if check.interval is not None else self.default_http_interval

    def timeout(self, check: Check) -> float:
        """Seconds that one attempt may take."""
        return float(check.timeout) if check.timeout is not None else self.default_http_timeout

    def retries(self, check: Check) -> int:
        return check.retries if check.retries is not None else self.default_http_retries

    def backoff_factor(self, check: Check) -> float:
        return float(check.backoff_factor) if check.backoff_factor is not None else self.default_backoff_factor

    def error_codes(self, check: Check) -> tuple[int, ...]:
        return check.error_codes if check.error_codes is not None else self.default_error_codes

    def longest_check(self, check: Check) -> int:
        """More seconds than a whole check may take, its attempts and the waits between them included."""
        retries = self.retries(check)
        return int((retries + 1) * self.timeout(check) + self.backoff_factor(check) * 2**retries + 5)

    def policy(self, check: Check) -> Policy:
        """How much it takes to change what is believed of a target."""
        return Policy(
            failure_threshold=check.failure_threshold or self.failure_threshold,
            success_threshold=check.success_threshold or self.success_threshold,
            second_opinion=self._wants_second_opinion(check),
            flap_count=self.flap_count,
            flap_window_ms=self.flap_window * 1000,
        )

    def _wants_second_opinion(self, check: Check) -> bool:
        """Whoever asks for several failures in a row has an opinion of their own on what is enough."""
        if check.second_opinion is not None:
            return check.second_opinion
        return self.second_opinion and (check.failure_threshold or self.failure_threshold) == 1

    def recipients(self, check: Check) -> tuple[str, ...]:
        """Who is mailed about a target beside MAIL_RECIPIENTS, sorted."""
        by_tag = (who for tag in check.tags or () for who in self.mail_tag_recipients.get(tag, ()))
        return tuple(sorted({*by_tag, *(check.recipients or ())} - set(self.mail_recipients)))

    def expected_code(self, check: Check) -> int:
        return check.expected_http_code if check.expected_http_code is not None else self.default_http_status_code

    def expected_number(self, check: Check) -> int:
        """One of the status codes that the target expects."""
        return check.expected_number(self.default_http_status_code)

    def expects(self, check: Check, code: int) -> bool:
        """Whether the status code is one that the target expects."""
        return check.expects(code, self.default_http_status_code)

    def expectation(self, check: Check) -> str:
        """What the target expects, for people."""
        return check.expectation(self.default_http_status_code)


def read_settings(**overrides: Any) -> Settings:
    """The settings of this process, from its environment and ``.env``; ``overrides`` are for tests and tools.

    Raises SettingsError.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(problem) for problem in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f".env: cannot be read: {problem}") from None


# URLs hold passwords and tokens, too.
_SECRETS = (
    "API_TOKEN",
    "CANARY_URLS",
    "HEARTBEAT_URL",
    "MAIL_PASSWORD",
    "NOTIFY_URLS",
    "REDIS_URL",
    "WEBHOOK_SECRET",
    "WEBHOOK_URL",
)


def _sentence(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    name = str(problem["loc"][0]).upper()
    hidden = name in _SECRETS
    value = "" if hidden else f" (it is {problem['input']!r})"
    return f"{name}: {message}{value}"


@cache
def settings_of_this_process() -> Settings:
    """:func:`read_settings` once a process, for the jobs that RQ calls without arguments of ours."""
    return read_settings()
