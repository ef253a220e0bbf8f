"""The memory that kept bodies may take: one purse an engine, from which each attempt draws as its body comes in. Pure.

Only bodies that an assertion asks for are kept. Small ones fit all at once, and a server that hangs costs nothing
here, so that nobody waits in ordinary times. When the purse is empty, an attempt that is in the middle of its body is
given up and made anew, uncounted, once a whole body's worth can be set aside for it; so are those that follow, as long
as one waits. A method that may change something is not sent twice: it has its worth set aside from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.assertions import Assertion

MAX_BODY_BYTES = 1024 * 1024  # decoded
PURSE_BYTES = 64 * MAX_BODY_BYTES

_BODILESS = {"header", "max_response_ms", "certificate_days"}


def needs_body(assertions: Sequence[Assertion] | None) -> bool:
    """Whether one of the assertions reads the body; those not known here do."""
    return any(assertion.type not in _BODILESS for assertion in assertions or ())


class Purse:
    """How many bytes are left."""

    def __init__(self, capacity: int = PURSE_BYTES) -> None:
        self.left = max(capacity, MAX_BODY_BYTES)

    def take(self, count: int) -> bool:
        if count > self.left:
            return False
        self.left -= count
        return True


class Allowance:
    """What one attempt has drawn from the purse."""

    def __init__(self, purse: Purse, *, set_aside: bool) -> None:
        """``set_aside`` draws a whole body's worth at once; raises ValueError when the purse does not hold it."""
        self._purse = purse
        self._held = 0
        if set_aside and not self.covers(MAX_BODY_BYTES):
            raise ValueError("the purse holds less than a body")

    def covers(self, total: int) -> bool:
        """Draws up to ``total`` bytes in all; False, and nothing is drawn, when the purse does not hold them."""
        if total > self._held:
            if not self._purse.take(total - self._held):
                return False
            self._held = total
        return True

    def give_back(self) -> None:
        self._purse.left += self._held
        self._held = 0
