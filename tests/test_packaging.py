"""The files that start, build and configure the monitor, held to the code that they speak of."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile

from shared.queues import QUEUES
from shared.settings import Settings
from worker.supervisor.order import WORK_GRACE_SECONDS

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS = {name.upper() for name in Settings.model_fields}
COMMANDS: dict[str, str] = dict(parse_procfile((PROJECT / "Procfile").read_text()).processes)
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "http-monitoring"}
DOCKERFILE = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")


def exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.+)$", DOCKERFILE, re.MULTILINE)


# --- Procfile ---


def test_the_procfile_has_a_line_for_each_process() -> None:
    assert list(COMMANDS) == ["web", "scheduler", "checks", "emails", "notifications", "housekeeping"]
    lines = [line for line in (PROJECT / "Procfile").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS.values())
def test_every_command_names_a_program_and_modules_that_exist(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "python":
        assert arguments[0] == "-m"
        assert exists(arguments[1])
        return
    assert entry_points(group="console_scripts", name=program)
    if program == "gunicorn":
        config, app = arguments[arguments.index("--config") + 1], arguments[-1]
        assert exists(config.removeprefix("python:"))
        assert exists(app.partition(":")[0])
    else:
        assert arguments[0] == "worker"
        assert exists(arguments[arguments.index("-c") + 1])
        assert arguments[-1] in QUEUES


@pytest.mark.parametrize("command", COMMANDS.values())
def test_no_command_needs_a_shell(command: str) -> None:
    assert not re.search(r"[$|&;<>`*~#=\\]", command)


def test_every_queue_has_a_process_and_no_process_has_two() -> None:
    assert {name for name in COMMANDS if name in QUEUES} == set(QUEUES)


# --- docker-compose.yml ---


def test_compose_runs_what_the_procfile_runs() -> None:
    assert {name: service["command"] for name, service in OURS.items()} == COMMANDS


def test_redis_publishes_no_port_and_everything_else_only_on_loopback() -> None:
    assert "ports" not in SERVICES["redis"]
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not any("network_mode" in service for service in SERVICES.values())


def test_redis_keeps_everything_on_a_volume() -> None:
    redis = SERVICES["redis"]
    command = redis["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert redis["volumes"] == ["redis:/data"]
    assert {"redis", "data"} <= set(COMPOSE["volumes"])


def test_every_variable_that_compose_sets_or_reads_is_a_setting() -> None:
    for service in OURS.values():
        assert set(service["environment"]) == SETTINGS
    text = (PROJECT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) <= SETTINGS


def test_compose_does_not_start_without_a_token() -> None:
    for service in OURS.values():
        assert service["environment"]["API_TOKEN"].startswith("${API_TOKEN:?")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_kept_running_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"].split(":")[0] not in ("0", "root")
    # A name of its own would forbid a second container: --scale checks=4.
    assert "container_name" not in service


@pytest.mark.parametrize("name", OURS)
def test_our_services_wait_for_redis_tell_their_health_and_get_the_time_to_finish(name: str) -> None:
    service = OURS[name]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert SERVICES["redis"]["healthcheck"]["test"]
    assert int(service["stop_grace_period"].removesuffix("s")) > WORK_GRACE_SECONDS
    assert service["init"] is True
    test = service["healthcheck"]["test"]
    if name == "web":
        compile(test[-1], "healthcheck", "exec")
        assert ":5000/livez" in test[-1]
    else:
        assert test == ["CMD", "python", "-m", "worker.alive", name]


def test_images_of_others_are_pinned() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += [image.partition(" ")[0] for image in instructions("FROM")]
    assert images
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)


# --- Dockerfile ---


def test_the_image_runs_as_the_user_that_compose_names_and_not_as_root() -> None:
    assert instructions("USER") == ["monitor"]
    for service in OURS.values():
        assert f"--uid {service['user'].split(':')[0]}" in DOCKERFILE


def test_the_image_holds_the_packages_and_neither_secrets_nor_data_nor_build_tools() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    copied = re.findall(r"^COPY (?!--from)(\S+)", last_stage, re.MULTILINE)
    assert copied == ["api", "shared", "worker"]
    assert all((PROJECT / name).is_dir() for name in copied)
    assert "pip install" not in last_stage
    assert "apt" not in last_stage
    ignored = (PROJECT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == {*copied, "requirements.txt"}


def test_the_image_runs_the_web_process_unless_told_otherwise() -> None:
    (command,) = instructions("CMD")
    assert yaml.safe_load(command) == shlex.split(COMMANDS["web"])


def test_the_image_sets_only_settings_and_python_s_own_variables() -> None:
    (line,) = instructions("ENV")
    names = {pair.partition("=")[0] for pair in shlex.split(line)}
    assert names - {"PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} <= SETTINGS


# --- settings ---


def test_the_example_of_env_names_every_setting_with_its_default() -> None:
    pairs = re.findall(r"^#?([A-Z_]+)=(.*)$", (PROJECT / ".env.example").read_text(), re.MULTILINE)
    assert [name for name, _ in pairs] == list(dict.fromkeys(name for name, _ in pairs))
    assert {name for name, _ in pairs} == SETTINGS
    given = {name.lower(): value for name, value in pairs if value}
    assert Settings(_env_file=None, **given) == Settings(_env_file=None)
    defaults = Settings(_env_file=None)
    assert {name for name in SETTINGS if getattr(defaults, name.lower()) not in (None, (), {})} == {
        name for name, value in pairs if value
    }


# --- requirements, make ---


@pytest.mark.parametrize("file", ["requirements.txt", "tests/requirements.txt"])
def test_every_requirement_is_exact_and_says_why_it_is_there(file: str) -> None:
    lines = [line for line in (PROJECT / file).read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+ +# \S.+", line), line


def test_make_alone_lists_the_targets() -> None:
    listed = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "lint", "clean"):
        assert f"make {target}\t" in listed


def test_ci_calls_make_test() -> None:
    script = PROJECT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.search(r"^make test ", script.read_text(), re.MULTILINE)
