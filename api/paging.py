"""Pages of targets and incidents, and the opaque cursors that lead from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.state import Status
from shared.store import Place, Targets, Watched

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_EVERY = 1_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """Some targets in the order of their creation; ``total`` counts all that are like those asked for."""

    targets: Sequence[Watched]
    total: int
    next_cursor: str | None
    """None: this is the last page."""


def cursor(position: int) -> str:
    """A position as clients see it: ``c`` and the number in base 36."""
    digits = ""
    while position:
        position, digit = divmod(position, 36)
        digits = _DIGITS[digit] + digits
    return f"c{digits or '0'}"


def position(text: str | None) -> int | None:
    """The inverse of :func:`cursor`."""
    return int(text[1:], 36) if text is not None else None


def incident_cursor(place: Place | None) -> str | None:
    """The place of an incident as clients see it: the cursor of its beginning, a dot and its id."""
    return f"{cursor(place[0])}.{place[1]}" if place else None


def incident_place(text: str | None) -> Place | None:
    """The inverse of :func:`incident_cursor`."""
    began, _, incident_id = (text or "").partition(".")
    return (int(began[1:], 36), incident_id) if began else None


def find_page(
    targets: Targets,
    *,
    endpoint: str | None = None,
    title: str | None = None,
    status: Status | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Page:
    """The targets that have exactly this endpoint, title and status, behind the cursor ``after``."""
    start = position(after) or 0
    if endpoint is not None or title is not None:
        # Few targets share a title or an endpoint, so all are read and the status is looked at here.
        found, _ = targets.find(endpoint=endpoint, title=title, limit=_EVERY)
        alike = [each for each in found if status in (None, each.state.status)]
        total, page = len(alike), [each for each in alike if each.order > start][: limit + 1]
    else:
        page = targets.page(after=start, limit=limit + 1, status=status)
        total = targets.count_by_status()[status] if status else targets.count()
    following = cursor(page[limit - 1].order) if len(page) > limit else None
    return Page(page[:limit], total, following)
