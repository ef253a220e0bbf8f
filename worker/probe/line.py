"""The line before the wire: which attempt may begin, so that no limit is broken and nobody waits for a stranger.

An attempt that has to wait for its own host, or for room for its body, steps aside and lets the others pass. While it
waits it has not begun: neither its timeout nor its time runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from worker.probe.purse import MAX_BODY_BYTES, Allowance, Purse
from worker.probe.run import CheckRun, Place


class Line:
    """Those that wait and those that have begun; at most ``max_transfers`` of these, ``max_per_host`` to one place.

    Whoever is ``is_at_once`` is counted, too, but held up by neither.
    """

    def __init__(self, max_transfers: int, max_per_host: int, purse: Purse) -> None:
        self.begun: set[CheckRun] = set()
        self._max_transfers = max_transfers
        self._max_per_host = max_per_host
        self._purse = purse
        self._waiting: deque[CheckRun] = deque()
        self._at_place: dict[Place, int] = {}
        self._for_place: dict[Place, deque[CheckRun]] = {}
        self._for_purse: deque[CheckRun] = deque()

    def join(self, run: CheckRun) -> None:
        """Takes its place: at the end, unless it has to begin at once."""
        if run.is_at_once:
            self._waiting.appendleft(run)
        else:
            self._waiting.append(run)

    @property
    def is_moving(self) -> bool:
        """Whether somebody may be able to begin now."""
        return bool(self._waiting) and (len(self.begun) < self._max_transfers or self._waiting[0].is_at_once)

    def begin(self, most: int) -> Iterator[CheckRun]:
        """The next ones that may begin, ``most`` at a time, those that step aside counted; they have begun then."""
        for _ in range(most):
            if not self.is_moving:
                return
            run = self._waiting.popleft()
            place = run.place
            there = self._at_place.get(place, 0)
            if there >= self._max_per_host and not run.is_at_once:
                self._for_place.setdefault(place, deque()).append(run)
            elif run.keeps_body and not self._draw(run):
                self._for_purse.append(run)
            else:
                self._at_place[place] = there + 1
                self.begun.add(run)
                yield run

    def _draw(self, run: CheckRun) -> bool:
        is_tight = run.is_starved or not run.is_repeatable or bool(self._for_purse)
        if is_tight and self._purse.left < MAX_BODY_BYTES:
            return False
        run.allowance = Allowance(self._purse, set_aside=is_tight)
        return True

    def leave(self, run: CheckRun) -> None:
        """Its attempt is over: whoever waited for what it held goes to the front. Leaving twice is allowed."""
        if run not in self.begun:
            return
        self.begun.discard(run)
        if run.allowance is not None:
            run.allowance.give_back()
            run.allowance = None
            self._let_body_in()
        place = run.place
        self._at_place[place] -= 1
        if not self._at_place[place]:
            del self._at_place[place]
        if place in self._for_place:
            aside = self._for_place[place]
            self._waiting.appendleft(aside.popleft())
            if not aside:
                del self._for_place[place]

    def _let_body_in(self) -> None:
        """Lets those step forward that there is room for. The last one that holds something lets others in."""
        for _ in range(min(self._purse.left // MAX_BODY_BYTES, len(self._for_purse))):
            self._waiting.appendleft(self._for_purse.popleft())

    def clear(self) -> None:
        self.begun.clear()
        self._waiting.clear()
        self._at_place.clear()
        self._for_place.clear()
        self._for_purse.clear()
