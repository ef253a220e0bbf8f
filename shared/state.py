"""What is believed of a target, and the one rule by which it changes. Pure.

Times are whole milliseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from shared.monitor import CheckResult, Verdict


class Status(StrEnum):
    """What is believed of a target now."""

    PENDING = "pending"
    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"
    PAUSED = "paused"


GOOD = (Status.UP, Status.DEGRADED)
_OF_VERDICT = {verdict: Status(verdict) for verdict in Verdict}


class Policy(Struct, frozen=True):
    """How much it takes to change what is believed of a target."""

    failure_threshold: int = 1
    """Failed checks in a row that make a target down, ..."""
    success_threshold: int = 1
    """... and good ones that make it up again."""
    second_opinion: bool = True
    """Whether one more check, made at once and by another job, has to fail before a target is down."""
    flap_count: int = 6
    """More changes between up and down than this within ``flap_window_ms`` are flapping; 0: nothing is."""
    flap_window_ms: int = 3_600_000
    """As long without a change, and the flapping is over."""

    @property
    def failures_needed(self) -> int:
        return self.failure_threshold + self.second_opinion

    def wants_opinion(self, state: State) -> bool:
        """Whether all that is missing for the target to be down is the second opinion."""
        return self.second_opinion and state.is_in_doubt and state.failures == self.failure_threshold


class State(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is believed of one target, and since when.

    ``flips`` counts what happened to it and numbers it. ``incident`` is the id of the incident that is open, if one
    is: it outlives ``unknown`` and ``paused``, so that the recovery is told whatever happened in between.
    """

    status: Status
    # What a factory made is stored, too, when it is the default.
    since: int = msgspec.field(default_factory=int)
    flips: int = msgspec.field(default_factory=int)
    failures: int = msgspec.field(default_factory=int)
    """Checks in a row that failed, whether they are believed yet or not; ``unknown`` ones do not count."""
    checked_at: int = msgspec.field(default_factory=int)
    """When the newest recorded check started; 0 before the first."""
    successes: int = 0
    """Good checks in a row of a target that is still believed to be down."""
    suspect: Mapping[str, Any] | None = None
    """The first of the failures in a row: at, ended (ms), reason, sentence, by (the name of its worker)."""
    recovering_at: int | None = None
    """When the first of the successes in a row ended."""
    incident: str | None = None
    down_at: int | None = None
    """When the open incident began: the start of the first check that failed."""
    is_flapping: bool = False
    changes: tuple[int, ...] = ()
    """The newest times at which it went up or down, oldest first: no more than flapping is counted from."""

    @property
    def is_in_doubt(self) -> bool:
        """Whether a check has failed and is not believed yet."""
        return self.failures > 0 and self.status is not Status.DOWN

    def encode(self) -> bytes:
        """The state as stored, JSON: the fields above, the later ones only where they differ from their default."""
        return _ENCODER.encode(self)

    @classmethod
    def decode(cls, document: bytes) -> State:
        """The inverse of :meth:`encode`; raises ValueError for what is not a state."""
        return _DECODER.decode(document)

    @classmethod
    def parse(cls, document: Any) -> State:
        """A state from JSON that was read already; raises ValueError, which names the field, for what is none."""
        return msgspec.convert(document, cls)


_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(State)


Tells = Literal["down", "up", "flapping", "calm"]


class Flip(Struct, frozen=True):
    """One change of what is believed. ``id`` is the same for everyone who computes it from the same state.

    ``opens`` and ``closes`` name an incident. ``tells`` is what people are told of it, None for nothing. ``before`` and
    ``after`` are equal where only that changed: an incident that was held back opens late.
    """

    id: str
    target_id: str
    before: Status
    after: Status
    at: int
    opens: str | None = None
    closes: str | None = None
    tells: Tells | None = None
    incident: str | None = None
    """The incident that it belongs to; None outside of one."""

    @property
    def is_worth_telling(self) -> bool:
        return self.tells is not None


def advance(state: State, result: CheckResult, policy: Policy, *, is_held: bool = False) -> tuple[State, Flip | None]:
    """The rule of state: what is believed after ``result``, and the flip if something changed.

    ==============================  =========================================================================
    verdict                         what is believed
    ==============================  =========================================================================
    down, not often enough yet      as before; the failure is counted
    down, often enough              down; an incident opens unless one is open, or new ones are held back
    up or degraded                  the same; of a target that is down not before ``success_threshold`` in a
                                    row, and then its incident closes
    unknown                         unknown; counts nothing, opens and closes nothing
    ==============================  =========================================================================

    People are told of an incident that opens, and of one that closes. So pending -> up is silent, and
    down -> unknown -> down is one incident and one mail. What goes up and down too often is told as ``flapping`` once;
    its incident stays open until it has been calm for a while.

    ``is_held`` says that nobody is to be alarmed now, because of a maintenance or a parent that is down: an incident
    that would open does so with the first failure after that. The caller has dropped results of paused targets and
    results older than ``state.checked_at``.
    """
    status, counted = _believe(state, result, policy)
    moved = replace(counted, checked_at=result.started_at)
    if status is not state.status:
        moved = replace(moved, status=status, since=result.started_at)
        if _went(state.status, status) and not is_held and policy.flap_count:
            recent = [at for at in state.changes if at > result.finished_at - policy.flap_window_ms]
            moved = replace(moved, changes=(*recent, result.finished_at)[-policy.flap_count - 1 :])
    after, tells, opens, closes = _tell(state, moved, result, policy, is_held=is_held)
    if status is state.status and tells is None:
        return after, None
    after = replace(after, flips=state.flips + 1)
    flip = Flip(
        id=f"{result.target_id}-{after.flips}",
        target_id=result.target_id,
        before=state.status,
        after=status,
        at=result.finished_at,
        opens=opens,
        closes=closes,
        tells=tells,
        incident=opens or closes or after.incident,
    )
    return after, flip


def _believe(state: State, result: CheckResult, policy: Policy) -> tuple[Status, State]:
    """The status after the result, and the state with everything counted."""
    if result.verdict is Verdict.UNKNOWN:
        return Status.UNKNOWN, state
    if result.verdict is Verdict.DOWN:
        suspect = state.suspect or {
            "at": result.started_at,
            "ended": result.finished_at,
            "reason": result.reason,
            "sentence": result.sentence,
            "by": result.by,
        }
        counted = replace(state, failures=state.failures + 1, successes=0, recovering_at=None, suspect=suspect)
        # What is known to be down, whatever hid it meanwhile, is so at once.
        is_known = state.status is Status.DOWN or (state.incident is not None and not state.is_flapping)
        is_enough = is_known or counted.failures >= policy.failures_needed
        return Status.DOWN if is_enough else state.status, counted
    was_down = state.status is Status.DOWN or (state.incident is not None and not state.is_flapping)
    if was_down and state.successes + 1 < policy.success_threshold:
        recovering_at = state.recovering_at or result.finished_at
        return state.status, replace(state, failures=0, successes=state.successes + 1, recovering_at=recovering_at)
    status = _OF_VERDICT[result.verdict]
    if not state.failures and not state.successes and state.recovering_at is None and state.suspect is None:
        return status, state  # As after most checks.
    return status, replace(state, failures=0, successes=0, recovering_at=None, suspect=None)


def _went(before: Status, after: Status) -> bool:
    """Whether that is a change between up and down."""
    return (before in GOOD and after is Status.DOWN) or (before is Status.DOWN and after in GOOD)


def _tell(
    state: State, moved: State, result: CheckResult, policy: Policy, *, is_held: bool
) -> tuple[State, Tells | None, str | None, str | None]:
    """The state with its incident opened, closed or left alone; what is told; the incident that opens, and closes."""
    is_down, is_good = moved.status is Status.DOWN, moved.status in GOOD
    new = f"{result.target_id}-{state.flips + 1}"
    began_at = int((moved.suspect or {}).get("at", result.started_at))
    if moved.is_flapping:
        if (
            not moved.changes
            or moved.changes[-1] > result.finished_at - policy.flap_window_ms
            or not (is_down or is_good)
        ):
            return moved, None, None, None
        calmed = replace(moved, is_flapping=False, changes=())
        if is_good:
            return _closed(calmed), "calm", None, state.incident
        return calmed, "calm", None, None
    begins_to_flap = moved.changes != state.changes and len(moved.changes) > policy.flap_count > 0
    if is_down and moved.incident is None:
        if is_held:
            return moved, None, None, None
        opened = replace(moved, incident=new, down_at=began_at, is_flapping=begins_to_flap)
        return opened, "flapping" if begins_to_flap else "down", new, None
    if is_good and moved.incident is not None:
        if begins_to_flap:
            return replace(moved, is_flapping=True), "flapping", None, None
        return _closed(moved), "up", None, state.incident
    return moved, None, None, None


def _closed(state: State) -> State:
    return replace(state, incident=None, down_at=None)
