"""The supervisor for real: a process of its own, with a small Procfile and an empty DATA_DIR."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from tests.processes import PROJECT, Run, running, short_folder
from tests.waiting import eventually
from worker import valkey

WAIT = 'python -c "import signal, sys; print(sys.argv[1], flush=True); signal.pause()"'
STUBBORN = (
    'python -c "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True);'
    ' [signal.pause() for _ in iter(int, 1)]"'
)
PARENT = (
    "python -c \"import subprocess; print(1, flush=True); subprocess.run(['sleep', '1001'], start_new_session=True)\""
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def supervise(folder: Path, *commands: str, **environment: str) -> AbstractContextManager[Run]:
    procfile = folder / "Procfile"
    procfile.write_text("".join(f"{command}\n" for command in commands))
    arguments = ["-m", "worker.supervisor", "--procfile", str(procfile)]
    return running(folder, *arguments, environment={"DATA_DIR": str(folder / "data"), **environment})


def redis_of(folder: Path) -> Redis:
    return Redis.from_url(f"unix://{folder}/data/valkey.sock")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


# --- starting ---


def test_valkey_answers_before_the_first_process_starts(folder: Path) -> None:
    ask = f"python -c \"import redis; print(redis.Redis.from_url('unix://{folder}/data/valkey.sock').ping())\""
    with supervise(folder, f"ask: {ask}") as run:
        run.says("| True")
        assert "Traceback" not in run.log


def test_every_line_of_the_log_has_a_time_and_the_name_of_its_process(folder: Path) -> None:
    with supervise(folder, f"first: {WAIT} hello", f"second: {WAIT} world") as run:
        run.says("hello")
        run.says("world")
        lines = run.log.splitlines()
        assert all(re.match(r"\d\d:\d\d:\d\d (first|second|valkey|monitor) *\| ", line) for line in lines)
        assert any(line.endswith("first   | hello") for line in lines)
        assert any(line.endswith("second  | world") for line in lines)


def test_the_embedded_valkey_keeps_everything_and_is_for_this_user_only(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello") as run:
        run.says("hello")
        with redis_of(folder) as redis:
            options = redis.config_get("appendonly", "appendfsync", "maxmemory-policy", "save", "port")
        assert options == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "port": "0",
        }
        assert (folder / "data").stat().st_mode & 0o777 == 0o700
        assert (folder / "data" / "valkey.sock").stat().st_mode & 0o777 == 0o700


def test_it_says_where_to_open_it_once_the_web_process_answers(folder: Path) -> None:
    port = free_port()
    (folder / "livez").touch()
    with supervise(folder, f"web: python -m http.server --bind 127.0.0.1 {port}", API_PORT=str(port)) as run:
        run.says(f"http://127.0.0.1:{port}/ (Control-C")


def test_it_waits_for_a_port_that_another_program_still_holds(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with supervise(folder, f"web: {WAIT} hello", API_PORT=str(port)) as run:
            run.says(f"waiting for port {port}")
            assert "hello" not in run.log
            listener.close()
            run.says("hello")


def test_a_bad_setting_is_named_and_nothing_starts(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello", DEFAULT_ERROR_CODES="500") as run:
        assert run.exit_code() == 2
        assert "DEFAULT_ERROR_CODES" in run.log
        assert not (folder / "data").exists()


def test_a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello") as first:
        first.says("hello")
        with supervise(folder, f"a: {WAIT} hello") as second:
            assert second.exit_code() == 2
            assert f"DATA_DIR {folder}/data is in use" in second.log
            assert str(first.pid) in second.log
        with redis_of(folder) as redis:
            assert redis.ping()


def test_with_redis_url_no_valkey_is_started_and_the_server_is_waited_for(folder: Path) -> None:
    path = folder / "elsewhere.sock"
    with supervise(folder, f"a: {WAIT} hello", REDIS_URL=f"unix://{path}") as run:
        run.says("waiting for the server of REDIS_URL")
        assert "hello" not in run.log
        with subprocess.Popen(valkey.command(path, folder), stdout=subprocess.DEVNULL) as server:
            run.says("hello")
            assert not (folder / "data" / "valkey").exists()
            server.terminate()


# --- keeping ---


def test_a_killed_process_is_started_again_and_the_log_says_why_it_ended(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello", f"b: {WAIT} other") as run:
        run.says("hello")
        run.says("other")
        other = run.pid_of("other")
        os.kill(run.pid_of("hello"), signal.SIGKILL)
        run.says("a was killed by SIGKILL; it starts again in 1 s")
        eventually(lambda: run.log.count("| hello") == 2)
        assert run.pid_of("other") == other


def test_a_process_that_cannot_live_is_tried_less_and_less_often(folder: Path) -> None:
    with supervise(folder, 'a: python -c "exit(3)"', "b: no-such-program") as run:
        run.says("a exited with code 3; it starts again in 1 s")
        run.says("a exited with code 3; it starts again in 2 s")
        run.says("b cannot be started")


def test_a_killed_valkey_is_started_again_with_what_was_acknowledged(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello") as run, redis_of(folder) as redis:
        run.says("hello")
        redis.set("kept", "yes")
        os.kill(run.pid_of("valkey-server"), signal.SIGKILL)
        run.says("valkey was killed by SIGKILL")
        eventually(lambda: "valkey-server" in str(run.living()))
        assert eventually(lambda: _get(folder, "kept")) == b"yes"


def _get(folder: Path, key: str) -> object:
    """What is stored; None while the server is away."""
    with redis_of(folder) as redis, suppress(RedisConnectionError):
        return redis.get(key)
    return None


def test_it_goes_on_and_stops_in_order_when_nobody_reads_its_log_any_more(folder: Path) -> None:
    procfile = folder / "Procfile"
    procfile.write_text(f"a: {WAIT} hello\n")
    reader, writer = os.pipe()
    environment = {"DATA_DIR": str(folder / "data")}
    with subprocess.Popen(
        [sys.executable, "-m", "worker.supervisor", "--procfile", str(procfile)],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), **environment},
        stdout=writer,
    ) as process:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        process.terminate()
        assert process.wait(20) == 0


# --- stopping ---


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_in_order_and_leaves_no_process(folder: Path, signum: signal.Signals) -> None:
    names = ("emails", "web", "checks", "scheduler")
    with supervise(folder, *(f"{name}: {WAIT} hello-{name}" for name in names), API_PORT=str(free_port())) as run:
        for name in names:
            run.says(f"hello-{name}")
        run.signal(signum)
        assert run.exit_code() == 0
        assert not run.living()
    ended = re.findall(r"monitor +\| (\w+) (?:was killed|exited)", run.log)
    assert ended[:2] == ["scheduler", "web"]
    assert sorted(ended[2:4]) == ["checks", "emails"]
    assert ended[4:] == ["valkey"]


def test_a_second_control_c_ends_what_does_not_listen(folder: Path) -> None:
    with supervise(folder, f"stubborn: {STUBBORN}") as run:
        run.says("stubborn | 1")
        run.signal(signal.SIGINT)
        # Within a second it is the same request, which would be repeated by make and by a terminal.
        eventually(lambda: _interrupt(run) and "hurrying" in run.log)
        assert run.exit_code() == 0
        assert "left something behind" in run.log
        assert not run.living()


def _interrupt(run: Run) -> bool:
    run.signal(signal.SIGINT)
    return True


def test_a_descendant_that_made_a_session_of_its_own_is_ended_too(folder: Path) -> None:
    with supervise(folder, f"parent: {PARENT}") as run:
        run.says("parent  | 1")
        eventually(lambda: "sleep 1001" in str(run.living()))
        run.signal(signal.SIGTERM)
        assert run.exit_code() == 0
        assert not run.living()


def test_it_can_be_stopped_while_it_still_waits_to_start(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello", REDIS_URL="redis://127.0.0.1:1") as run:
        run.says("waiting for the server of REDIS_URL")
        run.signal(signal.SIGTERM)
        assert run.exit_code() == 0


# --- being killed ---


def test_killing_the_supervisor_leaves_no_process_and_the_next_one_starts(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello") as run, redis_of(folder) as redis:
        run.says("hello")
        redis.set("kept", "yes")
        run.signal(signal.SIGKILL)
        with supervise(folder, f"a: {WAIT} hello") as following:
            following.says("hello")
            run.leaves_nothing()
            assert _get(folder, "kept") == b"yes"


def test_killing_the_whole_tree_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello") as run, redis_of(folder) as redis:
        run.says("hello")
        for number in range(1000):
            redis.set(f"kept-{number}", number)
        run.kill_all()
        with supervise(folder, f"a: {WAIT} hello") as following:
            following.says("hello")
            with redis_of(folder) as again:
                assert again.dbsize() == 1000


def test_the_valkey_of_a_killed_supervisor_is_waited_for(folder: Path) -> None:
    with supervise(folder, f"a: {WAIT} hello") as run:
        run.says("hello")
        server = run.pid_of("valkey-server")
        os.kill(server, signal.SIGSTOP)
        run.signal(signal.SIGKILL)
        with supervise(folder, f"a: {WAIT} hello") as following:
            following.says("waiting for the Valkey of an earlier run to leave")
            assert f"{folder}/data/valkey/lock is held by process {server}" in following.log
            assert "| hello" not in following.log
            os.kill(server, signal.SIGCONT)
            following.says("| hello")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_make_alone_stops_everything_in_order(folder: Path, signum: signal.Signals) -> None:
    (folder / "Procfile").write_text(f"a: {WAIT} hello\n")
    recipe = f"@exec {sys.executable} -m worker.supervisor --with-parent --procfile Procfile"
    (folder / "Makefile").write_text(f"run:\n\t{recipe}\n")
    # exec, so that the signals below reach make itself; and SIGINT does so though these tests may run in the background
    # of a script, whose children ignore it, and theirs.
    code = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('make', ['make', 'run'])"
    with running(folder, "-c", code, environment={"DATA_DIR": str(folder / "data")}) as run:
        run.says("hello")
        run.signal(signum)
        run.says("monitor | stopped")
        run.leaves_nothing()


def test_make_run_ties_the_supervisor_to_make() -> None:
    assert re.search(r"^\t@exec \S+ -m worker.supervisor --with-parent$", (PROJECT / "Makefile").read_text(), re.M)
