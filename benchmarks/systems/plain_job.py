"""The job of the plain way: ask one site with requests, and keep what came in a hash of its own."""

from __future__ import annotations

import time
from typing import Any

import requests
from rq import get_current_job


def check(name: str, url: str, timeout_seconds: float) -> None:
    began = time.time()
    found: dict[Any, Any]
    try:
        answer = requests.get(url, timeout=timeout_seconds)
        found = {"is_up": int(answer.status_code == 200), "status_code": answer.status_code}
    except requests.RequestException as error:
        found = {"is_up": 0, "error": type(error).__name__}
    job = get_current_job()
    assert job is not None
    job.connection.hset(name, mapping={**found, "at": began, "elapsed": time.time() - began})
