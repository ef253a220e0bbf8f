"""Whose fault it is when names have no answer: that of their name servers, or that of ours."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from worker.probe.resolver import Lookup

FEWEST_NAMES = 3
"""Of fewer, all may well be out of order at once."""


@dataclass(slots=True)
class NameServers:
    """What one engine has seen of them."""

    is_answering: bool = False
    """Whether one has answered for any name, if only that there is no such name."""
    unanswered: set[str] = field(default_factory=set)
    """The names that an attempt failed for without an answer."""

    def note(self, lookup: Lookup) -> None:
        """An answer, late or not. ``localhost`` is none: that is in a file (RFC 6761 6.3)."""
        error = lookup.error
        has_answer = error is None or (isinstance(error, socket.gaierror) and error.errno in _ANSWERS)
        is_in_file = lookup.host.rstrip(".").rpartition(".")[2] == "localhost"
        self.is_answering = self.is_answering or (has_answer and not is_in_file)

    @property
    def are_away(self) -> bool:
        return not self.is_answering and len(self.unanswered) >= FEWEST_NAMES


_ANSWERS = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_FAIL)
