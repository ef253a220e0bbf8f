"""What a loop that is held up may say of those that timed out."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shared.monitor import Reason, Verdict
from tests.probing import finish, settings, target
from tests.sites import Answer, Site
from worker.probe import Engine
from worker.probe.absence import Absences


@pytest.fixture
def absences() -> Absences:
    found = Absences()
    found.note(10.0, 11.0, is_deaf=True)
    found.note(12.0, 12.5, is_deaf=False)
    found.note(12.8, 12.82, is_deaf=True)  # Too short to count.
    found.note(14.0, 16.0, is_deaf=True)
    return found


@pytest.mark.parametrize(("since", "lost"), [(9.0, 3.5), (10.5, 3.0), (12.25, 2.25), (15.0, 1.0), (16.0, 0.0)])
def test_what_was_lost_since_a_moment(absences: Absences, since: float, lost: float) -> None:
    assert absences.lost_since(since) == pytest.approx(lost)


@pytest.mark.parametrize(
    ("alone_since", "deadline", "missed"),
    [
        (9.5, 17.0, 0.0),  # It waited for one thing all the time, and somebody listened at the end.
        (10.5, 17.0, 0.5),  # Half of the first absence went by before its request was sent.
        (17.0, 17.0, 3.0),  # It was in its first steps to the end: each absence may have held one up.
        (9.5, 15.0, 1.0),  # The deadline passed while nobody listened.
        (9.5, 16.01, 2.0),  # So soon before the deadline nothing was heard.
    ],
)
def test_what_one_that_timed_out_may_have_missed(
    absences: Absences, alone_since: float, deadline: float, missed: float
) -> None:
    assert absences.missed(9.0, alone_since, deadline) == pytest.approx(missed)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as found:
        yield found


def test_one_that_hangs_is_down_although_nobody_listened_in_between(site: Site) -> None:
    """As in an outage of everything: thousands time out together, and their loop has its hands full."""
    site.routes["/"] = Answer(200, delay_seconds=10)
    with Engine(settings()) as probe:
        probe.add(target(site.url(), timeout=1.5, retries=0))
        for _ in range(3):
            assert probe.poll(0.15) == []
            threading.Event().wait(0.2)  # The owner is away for 0.6 s in all, but not when it ends.
        (result,) = finish(probe)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.TIMEOUT)
