"""gunicorn with our configuration: how it starts, stops, and refuses what is no HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from redis import Redis

from tests.api_client import GOOGLE
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [str(Path(sys.executable).with_name("gunicorn")), "-c", "python:api.server"]


def environment(**variables: str) -> dict[str, str]:
    """Nothing of whoever runs the tests but the path."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(folder: Path, valkey_url: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server, once it answers; killed with its workers if the test leaves it running."""
    port = free_port()
    with subprocess.Popen(
        COMMAND,
        cwd=folder,
        env=environment(REDIS_URL=valkey_url, API_PORT=str(port), **variables),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:

        def is_up() -> bool:
            assert server.poll() is None, "it ended"
            try:
                return requests.get(f"http://127.0.0.1:{port}/livez", timeout=2).ok
            except requests.ConnectionError:
                return False

        try:
            eventually(is_up, 20)
            yield server, port
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def run_program(program: str, folder: Path, valkey_url: str) -> None:
    """In a process of its own, because it changes what all of one share, or may stand still for ever."""
    command = [sys.executable, "-W", "error", "-c", program]
    subprocess.run(command, cwd=folder, env=environment(REDIS_URL=valkey_url), timeout=20, check=True)


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"API_PORT": "five"}, "API_PORT"),
        ({"API_HOST": "0.0.0.0"}, "API_HOST"),
        ({"DEFAULT_ERROR_CODES": "504,500"}, "DEFAULT_ERROR_CODES"),
    ],
)
def test_a_bad_setting_stops_it_with_one_line(tmp_path: Path, variables: dict[str, str], names: str) -> None:
    run = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment(**variables), capture_output=True, text=True, timeout=20, check=False
    )
    assert run.returncode != 0
    [line] = run.stderr.strip().splitlines()
    assert names in line


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_quickly_with_open_streams(
    redis: Redis, valkey_url: str, tmp_path: Path, signum: signal.Signals
) -> None:
    with running(tmp_path, valkey_url) as (server, port), ExitStack() as stack:
        for _ in range(4):
            stream = stack.enter_context(requests.get(f"http://127.0.0.1:{port}/events", stream=True, timeout=5))
            assert next(stream.iter_lines()) == b"retry: 2000"
        server.send_signal(signum)
        server.wait(9)  # After ten seconds gunicorn would end streams that were not told.
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


def test_a_signal_that_meets_the_start_of_a_thread_of_the_pool_is_no_deadlock(valkey_url: str, tmp_path: Path) -> None:
    # Threads start while the pool is locked, and the handler of a signal interrupts the thread that holds the lock.
    program = """
import signal, sys, threading
from gunicorn.config import Config
from api.server import Worker

worker = Worker(1, 0, [], None, 60, Config(), None)
worker.method_queue.init()
worker.tpool = worker.get_thread_pool()
start = threading.Thread.start
def interrupted(thread):
    worker.handle_quit(signal.SIGQUIT, None)
    start(thread)
threading.Thread.start = interrupted
assert worker.tpool.submit(lambda: "done").result() == "done"
assert not worker.alive
"""
    run_program(program, tmp_path, valkey_url)


def test_the_collector_of_garbage_does_not_look_through_the_app(valkey_url: str, tmp_path: Path) -> None:
    program = """
import gc
from api import create_app
from api.server import post_worker_init

app = create_app()
post_worker_init(None)
assert len(gc.get_objects()) < 1000 < gc.get_freeze_count()
"""
    run_program(program, tmp_path, valkey_url)


def exchange(port: int, sent: bytes) -> tuple[str, bytes]:
    """The status line and the body that these bytes are answered with."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as answer:
            status = answer.readline().decode().strip()
            length = 0
            while (line := answer.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            return status, answer.read(length)


def test_over_a_real_connection(redis: Redis, valkey_url: str, tmp_path: Path) -> None:
    with running(tmp_path, valkey_url) as (_, port):
        url = f"http://127.0.0.1:{port}"
        head = f"POST /status HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"

        # What gunicorn cannot read is refused as JSON.
        for garbage in (
            b"GARBAGE\r\n\r\n",
            b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        ):
            status, body = exchange(port, garbage)
            assert status.split()[1] in ("400", "414")
            assert json.loads(body)["category"] == "error"

        # A body without a length is read, and no further than it may be long.
        body = json.dumps({"targets": [GOOGLE]}).encode()
        chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        assert exchange(port, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk)[0].split()[1] == "201"
        spaces = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        status, _ = exchange(port, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + spaces + chunk)
        assert status.split()[1] == "413"

        # A length that is too long is refused before the body comes.
        status, _ = exchange(port, f"{head}Content-Length: 90000000\r\n\r\n".encode())
        assert status.split()[1] == "413"

        # Nobody who asks can pass for a proxy that is trusted.
        answer = requests.get(
            f"{url}/rq",
            headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil"},
            timeout=5,
            allow_redirects=False,
        )
        assert answer.headers["Location"] == f"{url}/rq/"
