"""rq-dashboard at /rq: it shows truly, changes nothing by a link, and runs no foreign script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue

from tests.api_client import GOOGLE, client_on, digest_of, job_ids
from tests.waiting import eventually


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def test_queues_jobs_and_workers_show_truly(client: FlaskClient, redis: Redis, valkey_url: str) -> None:
    good = Queue("checks", connection=redis).enqueue("math.sqrt", 4)
    bad = Queue("checks", connection=redis).enqueue("math.sqrt", -1)
    [queue] = client.get("/rq/0/data/queues.json").get_json()["queues"]
    assert (queue["name"], queue["count"]) == ("checks", 2)
    command = [str(Path(sys.executable).with_name("rq")), "worker", "--url", valkey_url, "--name", "tester", "checks"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:

            def counts() -> tuple[int, int, int]:
                [queue] = client.get("/rq/0/data/queues.json").get_json()["queues"]
                return queue["count"], queue["finished_job_registry_count"], queue["failed_job_registry_count"]

            def workers() -> list[tuple[str, list[str], str]]:
                rows = client.get("/rq/0/data/workers.json").get_json()["workers"]
                return [(row["name"], row["queues"], row["state"]) for row in rows]

            eventually(lambda: counts() == (0, 1, 1), 20)
            eventually(lambda: workers() == [("tester", ["checks"], "idle")])
        finally:
            worker.terminate()
    eventually(lambda: client.get("/rq/0/data/workers.json").get_json()["workers"] == [])
    assert client.get(f"/rq/0/data/job/{good.id}.json").get_json()["result"] == 2
    assert "ValueError" in client.get(f"/rq/0/data/job/{bad.id}.json").get_json()["exc_info"]
    [failed] = client.get("/rq/0/data/jobs/checks/failed/8/asc/1.json").get_json()["jobs"]
    assert failed["id"] == bad.id


def test_its_pages_open(client: FlaskClient, redis: Redis) -> None:
    client.post("/status", json={"targets": [GOOGLE]})
    [job_id] = job_ids(redis)
    paths = ["/rq/", "/rq/0/view", "/rq/0/view/queues", "/rq/0/view/workers", "/rq/0/view/jobs"]
    paths += ["/rq/0/view/jobs/checks/queued/8/asc/1", f"/rq/0/view/job/{job_id}"]
    for path in paths:
        answer = client.get(path, follow_redirects=True)
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        nonce = re.search(r"script-src 'self' 'nonce-([\w-]+)' 'unsafe-eval';", policy)
        assert nonce is not None, path
        assert answer.text.count(f'<script nonce="{nonce.group(1)}" type="text/javascript">') == 1, path
        assert '<script type="text/javascript">' not in answer.text, path
    for path in ("/rq", "/rq/0/"):
        assert client.get(path).status_code == 308, path


def test_the_url_of_redis_is_not_shown(redis: Redis, valkey_url: str) -> None:
    client = client_on(f"{valkey_url}?client_name=hunter2")
    page = client.get("/rq/0/view/workers").text
    assert "hunter2" not in page
    assert "valkey.sock" not in page


@pytest.mark.parametrize(
    "path", ["/rq/requeue/checks", "/rq/job/x/requeue", "/rq/job/x/delete", "/rq/queue/checks/compact"]
)
def test_a_link_changes_nothing(client: FlaskClient, redis: Redis, path: str) -> None:
    client.post("/status", json={"targets": [GOOGLE]})
    before = digest_of(redis)
    answer = client.get(path)
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert "GET" not in answer.headers["Allow"]
    assert digest_of(redis) == before


def test_its_buttons_work(client: FlaskClient, redis: Redis) -> None:
    client.post("/status", json={"targets": [GOOGLE]})
    [job_id] = job_ids(redis)
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"/rq/job/{job_id}/delete", headers=headers).get_json() == {"status": "OK"}
    assert job_ids(redis) == []


@pytest.mark.parametrize(
    "path",
    [
        "/rq/1/view/queues",
        "/rq/0/data/job/nobody.json",
        "/rq/0/view/job/nobody",
        "/rq/0/data/jobs/checks/nothing/8/asc/1.json",
        "/rq/0/data/jobs/checks/queued/8/asc/x.json",
        "/rq/0/data/jobs/checks/queued/100000/asc/1.json",
        "/rq/0/data/jobs/checks/queued/0/asc/1.json",
    ],
)
def test_what_is_not_there_is_not_found(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.is_json
