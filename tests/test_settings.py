"""Settings: their defaults, where they are read, and how a bad one is named without telling a secret."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shared.check import Check
from shared.settings import Settings, SettingsError, read_settings

PROJECT = Path(__file__).resolve().parent.parent
VARIABLES = {name.upper() for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any of our variables, in an empty folder."""
    for name in list(os.environ):
        if name.upper() in VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


DEFAULTS = {
    "API_HOST": "127.0.0.1",
    "API_PORT": 5000,
    "API_TOKEN": None,
    "API_ALLOWED_HOSTS": (),
    "REDIS_URL": None,
    "DATA_DIR": Path("./data"),
    "DEFAULT_HTTP_CONFIG": None,
    "DEFAULT_HTTP_INTERVAL": 300,
    "DEFAULT_HTTP_TIMEOUT": 5,
    "DEFAULT_HTTP_STATUS_CODE": 200,
    "DEFAULT_HTTP_RETRIES": 3,
    "DEFAULT_BACKOFF_FACTOR": 0.3,
    "DEFAULT_ERROR_CODES": (504,),
    "MAIL_SERVER": None,
    "MAIL_PORT": 25,
    "MAIL_USERNAME": None,
    "MAIL_PASSWORD": None,
    "MAIL_USE_TLS": False,
    "MAIL_USE_SSL": False,
    "MAIL_DEFAULT_SENDER": None,
    "MAIL_RECIPIENTS": (),
    "MAIL_TAG_RECIPIENTS": {},
    "PUBLIC_URL": None,
    "NOTIFY_URLS": (),
    "WEBHOOK_URL": None,
    "WEBHOOK_SECRET": None,
    "FAILURE_THRESHOLD": 1,
    "SUCCESS_THRESHOLD": 1,
    "SECOND_OPINION": True,
    "FLAP_COUNT": 6,
    "FLAP_WINDOW": 3600,
    "ALERT_REMINDER": 0,
    "HEARTBEAT_URL": None,
    "ALERT_GROUP_WAIT": 10,
    "BLOCK_PRIVATE_NETWORKS": False,
    "MAX_PER_HOST": 10,
    "CANARY_URLS": (),
}


def test_every_setting_has_its_default() -> None:
    settings = read_settings()
    assert {name.upper(): getattr(settings, name) for name in Settings.model_fields} == DEFAULTS


def test_without_any_setting_redis_is_embedded_and_all_data_is_in_one_folder(tmp_path: Path) -> None:
    settings = read_settings()
    assert settings.is_redis_embedded
    assert settings.redis == f"unix://{tmp_path}/data/valkey.sock"
    assert settings.snapshot_path == Path("data/targets.json")
    assert settings.mail_folder == Path("data/mail")


def test_what_is_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "API_HOST": "0.0.0.0",
        "API_TOKEN": "s3cret",
        "API_ALLOWED_HOSTS": "monitor.example, other.example,",
        "REDIS_URL": "rediss://:pw@redis.example:6380/2",
        "DEFAULT_HTTP_CONFIG": "/srv/targets.json",
        "DEFAULT_HTTP_TIMEOUT": "2.5",
        "DEFAULT_ERROR_CODES": "501, 503",
        "MAIL_USE_TLS": "true",
        "MAIL_DEFAULT_SENDER": "Monitor <monitor@example.org>",
        "MAIL_RECIPIENTS": "a@example.org,b@example.org",
        "BLOCK_PRIVATE_NETWORKS": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)

    settings = read_settings()

    assert settings.api_token is not None
    assert settings.api_token.get_secret_value() == "s3cret"
    assert settings.api_allowed_hosts == ("monitor.example", "other.example")
    assert settings.redis == "rediss://:pw@redis.example:6380/2"
    assert settings.snapshot_path == Path("/srv/targets.json")
    assert settings.default_http_timeout == 2.5
    assert settings.default_error_codes == (501, 503)
    assert settings.mail_use_tls
    assert settings.mail_recipients == ("a@example.org", "b@example.org")
    assert settings.block_private_networks


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert {name.upper(): getattr(read_settings(), name) for name in Settings.model_fields} == DEFAULTS


# --- bad values ----------------------------------------------------------------------------------------------------

BAD = [
    ("API_PORT", "0", "greater than or equal to 1"),
    ("API_PORT", "65536", "less than or equal to 65535"),
    ("API_PORT", "http", "valid integer"),
    ("API_HOST", "0.0.0.0", "only when API_TOKEN is set"),
    ("API_HOST", "::", "only when API_TOKEN is set"),
    ("API_HOST", "192.168.1.5", "only when API_TOKEN is set"),
    ("API_HOST", "monitor.example", "only when API_TOKEN is set"),
    ("DATA_DIR", "/" + "d" * 88, "at most 88 bytes long"),
    ("DEFAULT_HTTP_INTERVAL", "4", "greater than or equal to 5"),
    ("DEFAULT_HTTP_INTERVAL", "86401", "less than or equal to 86400"),
    ("DEFAULT_HTTP_INTERVAL", "300.5", "valid integer"),
    ("DEFAULT_HTTP_INTERVAL", "5m", "valid integer"),
    ("DEFAULT_HTTP_TIMEOUT", "0", "greater than 0"),
    ("DEFAULT_HTTP_TIMEOUT", "-1", "greater than 0"),
    ("DEFAULT_HTTP_TIMEOUT", "inf", "finite number"),
    ("DEFAULT_HTTP_TIMEOUT", "nan", "finite number"),
    ("DEFAULT_HTTP_TIMEOUT", "5s", "valid number"),
    ("DEFAULT_HTTP_STATUS_CODE", "99", "greater than or equal to 100"),
    ("DEFAULT_HTTP_STATUS_CODE", "600", "less than or equal to 599"),
    ("DEFAULT_HTTP_STATUS_CODE", "2xx", "valid integer"),
    ("DEFAULT_HTTP_RETRIES", "4", "less than or equal to 3"),
    ("DEFAULT_HTTP_RETRIES", "-1", "greater than or equal to 0"),
    ("DEFAULT_BACKOFF_FACTOR", "-0.1", "greater than or equal to 0"),
    ("DEFAULT_BACKOFF_FACTOR", "inf", "finite number"),
    ("DEFAULT_ERROR_CODES", "500", "501, 502, 503 and 504 and nothing else"),
    ("DEFAULT_ERROR_CODES", "504,500", "501, 502, 503 and 504 and nothing else"),
    ("DEFAULT_ERROR_CODES", "505", "501, 502, 503 and 504 and nothing else"),
    ("MAIL_PORT", "70000", "less than or equal to 65535"),
    ("MAIL_USE_TLS", "maybe", "valid boolean"),
    ("MAIL_DEFAULT_SENDER", "monitor", "must be a mail address"),
    ("PUBLIC_URL", "monitor.example", "must"),
    ("PUBLIC_URL", "https://monitor.example/?a=b", "must be a URL without a query"),
    ("MAIL_TAG_RECIPIENTS", "web", "must look like tag=a@example.org"),
    ("MAIL_TAG_RECIPIENTS", "=a@example.org", "must look like tag=a@example.org"),
    ("FAILURE_THRESHOLD", "0", "greater than or equal to 1"),
    ("SUCCESS_THRESHOLD", "101", "less than or equal to 100"),
    ("SECOND_OPINION", "perhaps", "valid boolean"),
    ("FLAP_COUNT", "-1", "greater than or equal to 0"),
    ("FLAP_WINDOW", "9", "greater than or equal to 10"),
    ("ALERT_REMINDER", "-1", "greater than or equal to 0"),
    ("ALERT_REMINDER", "2592001", "less than or equal to 2592000"),
    ("ALERT_GROUP_WAIT", "-1", "greater than or equal to 0"),
    ("ALERT_GROUP_WAIT", "3601", "less than or equal to 3600"),
    ("ALERT_GROUP_WAIT", "nan", "finite number"),
    ("BLOCK_PRIVATE_NETWORKS", "si", "valid boolean"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_a_bad_value_is_refused_with_its_name_the_rule_and_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    (sentence,) = str(caught.value).splitlines()
    assert sentence.startswith(f"{name}: ")
    assert rule in sentence
    assert sentence.endswith(f"(it is {value!r})")


@pytest.mark.parametrize(
    ("name", "value", "bad_part"),
    [("DEFAULT_ERROR_CODES", "504,often", "often"), ("MAIL_RECIPIENTS", "a@example.org,nobody", "nobody")],
)
def test_of_a_list_the_bad_part_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, bad_part: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}: .* \(it is '{bad_part}'\)$"):
        read_settings()


@pytest.mark.parametrize("address", ["@example.org", "monitor@", "monitor", "a@b\r\nBcc: c@d", "a@b\x0bc"])
def test_what_is_no_mail_address_is_no_recipient(address: str) -> None:
    with pytest.raises(SettingsError, match=r"^MAIL_RECIPIENTS: must be a mail address"):
        read_settings(mail_recipients=(address,))


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://:hunter2@redis.example", "must begin with redis://, rediss:// or unix://"),
        ("redis.example:6379", "must begin with redis://, rediss:// or unix://"),
        ("redis://:hunter2@redis.example:none/0", "must have a port"),
        ("redis://:hunter/2@redis.example", "must have a port"),
        ("redis://:hunter2@redis.example:70000", "must have a port"),
    ],
)
def test_a_bad_redis_url_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str, rule: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError, match=f"^REDIS_URL: {rule}") as caught:
        read_settings()
    assert "hunter" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_all_bad_values_are_told_at_once_and_no_secret_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_PORT": "x",
        "API_TOKEN": "hunter2é",
        "CANARY_URLS": "hunter2",
        "HEARTBEAT_URL": "beat.example/hunter2",
        "MAIL_PASSWORD": "hunter2",
        "WEBHOOK_URL": "hook.example/hunter2",
        "REDIS_URL": "hunter2",
        "DEFAULT_HTTP_RETRIES": "9",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    names = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert set(names) == {
        "API_PORT",
        "API_TOKEN",
        "CANARY_URLS",
        "DEFAULT_HTTP_RETRIES",
        "HEARTBEAT_URL",
        "REDIS_URL",
        "WEBHOOK_URL",
    }
    assert "hunter2" not in str(caught.value)


def test_a_good_secret_is_not_in_the_text_of_the_settings() -> None:
    settings = read_settings(api_token=SecretStr("hunter2"), mail_password=SecretStr("hunter2"))
    assert "hunter2" not in f"{settings} {settings!r}"


def test_tls_from_the_first_byte_and_starttls_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match=r"^MAIL_USE_TLS: .*MAIL_USE_SSL"):
        read_settings(mail_use_tls=True, mail_use_ssl=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert read_settings(api_host=host).api_token is None


def test_any_address_may_be_used_with_a_token() -> None:
    assert read_settings(api_host="0.0.0.0", api_token=SecretStr("s3cret")).api_host == "0.0.0.0"


def test_a_folder_too_deep_for_a_socket_is_fine_where_redis_is_elsewhere() -> None:
    assert read_settings(data_dir=Path("/" + "d" * 200), redis_url="redis://redis.example").data_dir


def test_the_longest_folder_that_is_allowed_has_room_for_the_socket() -> None:
    settings = read_settings(data_dir=Path("/" + "d" * 87))
    assert len(os.fsencode(settings.socket_path)) == 100


# --- where settings are read ---------------------------------------------------------------------------------------


def test_the_file_env_in_the_working_folder_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tmp_path, ".env").write_text(
        "# a comment\nAPI_PORT=5001\nDEFAULT_HTTP_INTERVAL=60\nexport MAIL_SERVER='smtp.example.org'\nUNKNOWN=1\n"
    )
    monkeypatch.setenv("DEFAULT_HTTP_INTERVAL", "120")
    settings = read_settings()
    assert (settings.api_port, settings.default_http_interval, settings.mail_server) == (5001, 120, "smtp.example.org")


def test_a_bad_value_in_the_file_env_is_named_too(tmp_path: Path) -> None:
    Path(tmp_path, ".env").write_text("DEFAULT_ERROR_CODES=500\n")
    with pytest.raises(SettingsError, match=r"^DEFAULT_ERROR_CODES: "):
        read_settings()


def test_a_file_env_that_is_not_text_is_a_clear_error(tmp_path: Path) -> None:
    Path(tmp_path, ".env").write_bytes(b"MAIL_PASSWORD=hunter\xe9\n")
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read: it is not UTF-8$"):
        read_settings()


# --- a target's own values come first ------------------------------------------------------------------------------


def test_a_target_without_values_of_its_own_follows_the_settings() -> None:
    settings, plain = read_settings(default_http_retries=1, default_http_timeout=2), Check(endpoint="http://a.example")
    assert (settings.interval(plain), settings.timeout(plain), settings.retries(plain)) == (300, 2.0, 1)
    assert (settings.backoff_factor(plain), settings.error_codes(plain), settings.expected_code(plain)) == (
        0.3,
        (504,),
        200,
    )


def test_a_value_of_a_targets_own_comes_first_a_zero_and_an_empty_list_included() -> None:
    settings = read_settings()
    own = Check(
        endpoint="http://a.example",
        expected_http_code=404,
        interval=5,
        timeout=1,
        retries=0,
        backoff_factor=0,
        error_codes=(),
    )
    assert (settings.interval(own), settings.timeout(own), settings.retries(own)) == (5, 1.0, 0)
    assert (settings.backoff_factor(own), settings.error_codes(own), settings.expected_code(own)) == (0.0, (), 404)


def test_a_target_is_told_to_those_of_its_tags_and_its_own_but_not_twice_to_those_of_all() -> None:
    settings = read_settings(
        mail_recipients=("ops@example.org",),
        mail_tag_recipients="web=web@example.org,ops@example.org; db=db@example.org",
    )
    check = Check(endpoint="http://a.example", tags=("web", "other"), recipients=("own@example.org", "web@example.org"))
    assert settings.recipients(check) == ("own@example.org", "web@example.org")
    assert settings.recipients(Check(endpoint="http://a.example")) == ()


@pytest.mark.parametrize(
    ("settings", "own", "expected"),
    [
        ({}, {}, (1, True)),
        ({"second_opinion": False}, {}, (1, False)),
        ({"failure_threshold": 3}, {}, (3, False)),
        ({}, {"failure_threshold": 2}, (2, False)),
        ({}, {"failure_threshold": 2, "second_opinion": True}, (2, True)),
        ({"failure_threshold": 3}, {"failure_threshold": 1}, (1, True)),
        ({}, {"second_opinion": False}, (1, False)),
    ],
)
def test_whoever_asks_for_several_failures_in_a_row_has_no_second_opinion_unless_they_say_so(
    settings: dict[str, Any], own: dict[str, Any], expected: tuple[int, bool]
) -> None:
    policy = read_settings(**settings).policy(Check(endpoint="http://a.example", **own))
    assert (policy.failure_threshold, policy.second_opinion) == expected


def test_urls_of_channels_may_hold_commas() -> None:
    settings = read_settings(notify_urls="slack://a/b/c,d, json://x.example/,mailto://u:p@y.example?to=a@b.c,d@e.f")
    assert [url.get_secret_value() for url in settings.notify_urls] == [
        "slack://a/b/c,d",
        "json://x.example/",
        "mailto://u:p@y.example?to=a@b.c,d@e.f",
    ]


# --- the README and .env.example -----------------------------------------------------------------------------------


def test_the_table_of_settings_in_the_readme_names_every_setting_and_no_other() -> None:
    readme = PROJECT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else "@@SETTINGS@@"
    if "@@SETTINGS@@" in text:
        pytest.skip("the README has no table of settings yet")
    names: set[str] = set()
    for line in text.splitlines():
        first = line.split("|")[1].replace("`", "").strip() if line.startswith("|") and line.count("|") > 2 else ""
        if re.fullmatch(r"[A-Z]+(?:_[A-Z]+)+(?:\s*,\s*[A-Z]+(?:_[A-Z]+)+)*", first):
            names.update(name.strip() for name in first.split(","))
    assert names == VARIABLES


def test_the_example_file_shows_every_setting_and_no_other() -> None:
    example = PROJECT / ".env.example"
    if not example.exists():
        pytest.skip("there is no .env.example yet")
    assert set(re.findall(r"^#?([A-Z_]+)=", example.read_text(encoding="utf-8"), re.MULTILINE)) == VARIABLES
