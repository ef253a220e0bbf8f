"""``python -m worker.alive checks``: whether that background process of this host gives signs of life in Redis.

For containers' health checks. A queue's name asks for a worker of that queue on this host that has not missed its
heartbeat; ``scheduler`` asks for the tick of any scheduler, whichever host it runs on, because one is enough.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.queues import QUEUES, Queues
from shared.settings import SettingsError, read_settings
from shared.store import Store

SCHEDULER = "scheduler"
_LATE_SCHEDULER_SECONDS = 15.0


def problem(name: str, store: Store, queues: Queues, *, host: str, now: float) -> str | None:
    """Why `name` does not seem to be alive; None when it does. `now` is in seconds since the epoch."""
    if name == SCHEDULER:
        beat = store.vitals.last_beat()
        if beat is None:
            return "no scheduler has given a sign of life"
        age = now - beat / 1000
        return f"the last tick of a scheduler was {age:.0f} s ago" if age > _LATE_SCHEDULER_SECONDS else None
    if any(worker.host == host for worker in queues.workers(name)):
        return None
    return f"no worker of the queue {name} is alive on {host}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.alive", description="Is a background process alive?")
    parser.add_argument("name", choices=[SCHEDULER, *QUEUES])
    name = parser.parse_args(arguments).name
    try:
        settings = read_settings()
        retry = Retry(NoBackoff(), 0)
        with Redis.from_url(settings.redis, socket_timeout=3, socket_connect_timeout=3, retry=retry) as redis:
            found = problem(name, Store(redis), Queues(redis, settings), host=socket.gethostname(), now=time.time())
    except (SettingsError, RedisError) as error:
        found = str(error)
    if found is not None:
        print(found, file=sys.stderr)
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main())
