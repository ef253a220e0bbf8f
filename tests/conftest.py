"""Fixtures that every test may use: a real Valkey for the whole run, and an empty database on it for one test."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from tests.waiting import eventually
from worker import valkey
from worker.lifeline import die_with_parent


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisConnectionError:
        return False


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The URL of an embedded Valkey that belongs to this test run; it dies with it, kill -9 included."""
    parent = os.getpid()
    # The path of a Unix socket holds 108 bytes at most, less than pytest's own temporary folders may take.
    with tempfile.TemporaryDirectory(prefix="monitor-") as folder:
        socket_path = Path(folder, "valkey.sock")
        with subprocess.Popen(
            valkey.command(socket_path, Path(folder)),
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(parent),
        ) as server:
            url = f"unix://{socket_path}"
            try:
                eventually(lambda: _answers(url))
                yield url
            finally:
                server.terminate()


@pytest.fixture
def redis(valkey_url: str) -> Iterator["Redis"]:
    """A client of the test run's own Valkey, on an emptied database; answers are bytes, as RQ wants them."""
    with Redis.from_url(valkey_url) as client:
        client.flushall()
        yield client
