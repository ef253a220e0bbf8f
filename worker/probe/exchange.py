"""What came of one request, and how the lines of an answer's header are read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from worker.probe.certificate import Chain
from worker.probe.failure import Failure

REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_NUMBER = 20
"""Of the bytes of a body; whoever says more says nothing."""


class Exchange(Struct, frozen=True):
    """What one request met: a status code, or a failure, or both (an answer that broke off)."""

    elapsed_ms: float
    phases: dict[str, float]
    """``connect`` to ``transfer`` as in monitor.PHASES; only what happened, and they add up to ``elapsed_ms``."""
    late_ms: float = 0.0
    """By how much our loop was late with it, which is in none of them."""
    status_code: int | None = None
    location: str | None = None
    """Where a redirect leads, followed or not."""
    failure: Failure | None = None
    address: str | None = None
    header: Sequence[bytes] = ()
    """The lines of the answer's header, the status line first, once it is complete."""
    body: bytes | bytearray = b""
    """Decoded: as much of it as an assertion or the evidence needs."""
    body_bytes: int = 0
    """How many bytes of it were read, decoded."""
    chain: Chain | None = None
    """The certificates that the server sent, where they were asked for."""
    is_undecodable: bool = False
    """Whether the failure is a body that could not be decoded: the status is known all the same, and decides first."""
    is_starved: bool = False
    """Whether it was given up because there was no memory for its body."""


def header_fields(header: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """Names and values of a header's lines, as UTF-8 or else as Latin-1, which everything is."""
    for line in header[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            yield name.strip().decode("latin-1"), _text(value.strip())


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def status_code_of(block: Sequence[bytes]) -> int:
    """The status code of a header block; 0 when it has none."""
    words = block[0].split(None, 2) if block else []
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def location_of(block: Sequence[bytes]) -> str | None:
    """Where a header block redirects to; None when it is no redirect."""
    if status_code_of(block) not in REDIRECTS:
        return None
    for line in block:
        if line[:9].lower() == b"location:":
            return line[9:].strip().decode("utf-8", "replace")
    return None


def length_of(block: Sequence[bytes]) -> int | None:
    """How many bytes of body a header block announces; None where it does not, or where they are coded."""
    length = None
    for line in block:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"content-length" if value.strip().isdigit() and len(value) < _LONGEST_NUMBER:
                length = int(value)
            case b"content-encoding" | b"transfer-encoding":
                return None
    return length
