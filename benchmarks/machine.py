"""What a measurement runs on: a Valkey of its own, and the operating system's accounts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from benchmarks.processes import answers
from benchmarks.waiting import wait_until
from worker import valkey


@contextmanager
def redis_running(folder: Path) -> Iterator[tuple[str, int]]:
    """The embedded Valkey as the product starts it; its URL and its pid."""
    socket_path = folder / "valkey.sock"
    with subprocess.Popen(valkey.command(socket_path, folder), stdout=subprocess.DEVNULL) as server:
        try:
            url = f"unix://{socket_path}"
            with Redis.from_url(url) as client:
                wait_until(lambda: answers(client), 30, "an answer of Valkey")
            yield url, server.pid
        finally:
            server.terminate()


def description() -> str:
    """Processor and cores, for the table."""
    with open("/proc/cpuinfo") as info:
        models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores"
