"""One measurement of one tree of the project, through its public doors alone: its API and the names of its jobs.

Runs as a process of its own with that tree as working folder, so that two revisions can be measured side by side:
``python measured.py REDIS_URL VALKEY_PID ENDPOINT COUNT ROUNDS``. Prints one JSON object: ``worker_ms`` and
``redis_ms``, lists of CPU milliseconds a check, one of each for a round.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib import import_module
from typing import Any

BATCH = 400


def main(redis_url: str, valkey_pid: int, endpoint: str, count: int, rounds: int) -> dict[str, list[float]]:
    sys.path.insert(0, os.getcwd())
    rq, redis = import_module("rq"), import_module("redis")
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
        ids = _post(endpoint, count)
        queue = rq.Queue("checks", connection=connection)
        queue.empty()
        batches = [ids[at : at + BATCH] for at in range(0, count, BATCH)]
        found: dict[str, list[float]] = {"worker_ms": [], "redis_ms": []}
        # One round before those that count: imports, and what is done once in the life of a process.
        for number in range(rounds + 1):
            for batch in batches:
                # As a turn of the schedule, not as a check by hand, which looks closer.
                queue.enqueue("worker.jobs.check_targets", batch, int(time.time() * 1000))
            before = _own_cpu(), _cpu_of(valkey_pid)
            worker = rq.SimpleWorker([queue], connection=connection)
            worker.work(burst=True, logging_level="ERROR")
            after = _own_cpu(), _cpu_of(valkey_pid)
            if number:
                for name, was, is_now in zip(found, before, after, strict=True):
                    found[name].append((is_now - was) * 1000 / count)
        page = _client().get("/status?limit=1&status=up").get_json()
        assert page["category"] == "success", "no target is up"
    return found


def _client() -> Any:
    return import_module("api").create_app().test_client()


def _post(endpoint: str, count: int) -> list[str]:
    client, ids = _client(), []
    for at in range(0, count, BATCH):
        targets = [{"endpoint": f"{endpoint}/{number}"} for number in range(at, min(at + BATCH, count))]
        answer = client.post("/status", json={"targets": targets}).get_json()
        ids += [target["id"] for target in answer["data"]["targets"]]
    return ids


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    url, pid, where, targets, repeats = sys.argv[1:]
    print(json.dumps(main(url, int(pid), where, int(targets), int(repeats))))
