"""Signal handlers that are put off: they run at the end, once, and whoever was there before is there again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from worker.probe.interrupts import Interrupts

ALARM = signal.SIGALRM


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that the handler of the job has been told of, which is installed."""
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(ALARM, hear)
    yield heard
    signal.signal(ALARM, before)


def _raise_within(interrupts: Interrupts, *signals: int) -> None:
    with interrupts:
        for number in signals:
            signal.raise_signal(number)


def test_a_handler_runs_at_the_end_of_the_context_and_elsewhere_at_once(heard: list[int]) -> None:
    interrupts = Interrupts()
    interrupts.attend()
    with interrupts:
        signal.raise_signal(ALARM)
        assert heard == []
    assert heard == [ALARM]
    signal.raise_signal(ALARM)
    assert heard == [ALARM, ALARM]
    interrupts.leave()


def test_what_a_handler_raises_gets_out_and_the_next_signal_is_not_lost(heard: list[int]) -> None:
    def refuse(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGTERM, refuse)
    interrupts = Interrupts()
    interrupts.attend()
    try:
        with pytest.raises(TimeoutError):
            _raise_within(interrupts, signal.SIGTERM, ALARM)
        with interrupts:
            assert heard == []
        assert heard == [ALARM]
    finally:
        interrupts.leave()
        signal.signal(signal.SIGTERM, before)


def test_the_handlers_are_put_back_but_not_over_one_that_came_meanwhile(heard: list[int]) -> None:
    before = {number: signal.getsignal(number) for number in (ALARM, signal.SIGINT, signal.SIGTERM)}
    interrupts = Interrupts()
    interrupts.attend()
    signal.signal(ALARM, signal.SIG_IGN)
    interrupts.leave()
    assert signal.getsignal(ALARM) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    signal.signal(ALARM, before[ALARM])
    interrupts.leave()
    assert signal.getsignal(ALARM) is before[ALARM]


def test_a_handler_that_comes_later_is_stood_in_for_when_it_is_attended_to_again(heard: list[int]) -> None:
    later: list[int] = []
    interrupts = Interrupts()
    interrupts.attend()
    signal.signal(ALARM, lambda number, _frame: later.append(number))
    interrupts.attend()
    with interrupts:
        signal.raise_signal(ALARM)
        assert later == []
    assert (later, heard) == ([ALARM], [])
    interrupts.leave()


def test_two_at_a_time_tell_the_same_handler_also_when_the_first_has_left(heard: list[int]) -> None:
    first, second = Interrupts(), Interrupts()
    first.attend()
    second.attend()
    first.leave()
    with second:
        signal.raise_signal(ALARM)
        assert heard == []
    assert heard == [ALARM]
    second.leave()
