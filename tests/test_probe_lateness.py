"""A loop that has its hands full does not blame the targets for it."""

from __future__ import annotations

import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared import signals
from shared.monitor import CheckResult, Reason, Verdict
from tests.probing import ca_path, finish, settings, target
from tests.sites import Answer, Site
from worker.probe import Engine
from worker.probe.engine import BEGUN_A_TURN
from worker.probe.lateness import Lateness
from worker.probe.tcp_info import received_bytes, silent_seconds

BUSY_SECONDS = 0.01


@pytest.fixture
def busy() -> Iterator[None]:
    """A loop that works for a while on each attempt that begins, so that a turn of it takes a third of a second."""

    def work(*_: object, **__: object) -> None:
        time.sleep(BUSY_SECONDS)

    with signals.check_started.connected_to(work):
        yield


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def site(authority: trustme.CA) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Site(tls=context) as found:
        yield found


def first_of_many(url: str, turns: int, ca_file: str | None = None, **options: Any) -> CheckResult:
    """The result of one check, begun with as many others as the loop needs so many turns for."""
    first = target(url, retries=0, **options)
    with Site() as elsewhere, Engine(settings(max_per_host=1000), ca_file=ca_file) as probe:
        probe.add(first)
        for _ in range(turns * BEGUN_A_TURN):
            probe.add(target(elsewhere.url(), retries=0, timeout=30))
        results = finish(probe, 30)
    (found,) = (result for result in results if result.target_id == first.id)
    return found


@pytest.mark.usefixtures("busy")
def test_what_was_ready_long_ago_is_not_said_to_have_come_late() -> None:
    with Site() as site, Engine(settings(max_per_host=1000)) as probe:
        for _ in range(4 * BEGUN_A_TURN):
            probe.add(target(site.url(), retries=0, timeout=30))
        results = finish(probe, 30)
    connect_ms = [result.attempts[0].phases["connect"] for result in results]
    assert statistics.median(connect_ms) < BEGUN_A_TURN * BUSY_SECONDS * 1000 / 4


@pytest.mark.usefixtures("busy")
def test_an_answer_behind_a_session_ticket_came_when_it_came(site: Site, authority: trustme.CA, tmp_path: Path) -> None:
    """Both wait for the loop by now: the ticket since the handshake, the answer since a moment ago."""
    site.routes["/"] = Answer(200, delay_seconds=0.25)
    result = first_of_many(site.url(), 5, ca_path(authority, tmp_path), timeout=30)
    assert result.verdict is Verdict.UP
    phases = result.attempts[0].phases
    assert phases["connect"] < BEGUN_A_TURN * BUSY_SECONDS * 1000 / 4
    assert 240 <= phases["wait"] < 250 + BEGUN_A_TURN * BUSY_SECONDS * 1000 / 2


@pytest.mark.usefixtures("busy")
def test_a_timeout_takes_its_time(site: Site, authority: trustme.CA, tmp_path: Path) -> None:
    site.routes["/"] = Answer(200, delay_seconds=10)
    result = first_of_many(site.url(), 5, ca_path(authority, tmp_path), timeout=1.5)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.TIMEOUT)
    assert result.attempts[0].elapsed_ms > 1500 - BEGUN_A_TURN * BUSY_SECONDS * 1000 / 4


@pytest.mark.parametrize(
    ("begun", "end", "late_ms"),
    [
        (0, 1_500_000, 300.0),  # It ended when that was handed over.
        (1_500_000, 3_500_000, 700.0),  # What ended it counts, not what was handed over before.
        (3_500_000, 4_500_000, 0.0),  # It ended by itself.
        (0, 500_000, 0.0),
    ],
)
def test_a_phase_is_late_by_what_ended_it(
    begun: int, end: int, late_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lateness = Lateness()
    assert lateness.milliseconds(begun, end) == 0
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    lateness.begin()
    monkeypatch.setattr(time, "monotonic", lambda: 101.0)
    lateness.begin()  # A second socket: libcurl counts from the first.
    for now, seconds in ((101.0, 0.3), (102.0, 0.5), (103.0, 0.7)):
        lateness.note(now, seconds)
    assert lateness.milliseconds(begun, end) == pytest.approx(late_ms)


def test_the_system_knows_when_a_byte_came_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"abc")
            deadline = time.monotonic() + 10
            while received_bytes(client.fileno()) < 3:
                assert time.monotonic() < deadline
            assert silent_seconds(client.fileno()) < 5
            while silent_seconds(client.fileno()) < 0.05:
                assert time.monotonic() < deadline


def test_of_what_is_no_connection_the_system_knows_nothing(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, socket.socket(socket.AF_UNIX) as other:
        for descriptor in (file.fileno(), other.fileno(), 999_999):
            assert received_bytes(descriptor) == 0
            assert silent_seconds(descriptor) == float("inf")
