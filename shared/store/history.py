"""One result of the history in few bytes: a day of them is most of what a target takes in Redis. Pure."""

from __future__ import annotations

from typing import Any

from shared.monitor import PHASES, CheckResult, Verdict

_VERDICTS = {Verdict.UP: 0, Verdict.DOWN: 1, Verdict.UNKNOWN: 2, Verdict.DEGRADED: 3}
_BY_NUMBER = {number: verdict for verdict, number in _VERDICTS.items()}
_ORDINARY_CODE = 200
_NUMBERS = 7 + len(PHASES)


def pack(result: CheckResult) -> bytes:
    """The result as the numbers that are out of the ordinary, and why it was bad.

    Two bytes say which of the numbers there are, one bit each, the lowest is the first; then these follow as variable
    length integers (seven bits a byte, the lowest first; the sign is the lowest bit, as Protocol Buffers' sint), then
    as UTF-8 the reason, and the sentence behind a comma. The numbers, and what one that is missing means:

    verdict (up; 1 down, 2 unknown, 3 degraded), status code (200; 0 for none), milliseconds from scheduled to started
    (not scheduled), from enqueued to started (not known), from started to finished beyond the elapsed ones (0), the
    five phases in tenths of a millisecond (did not happen), what elapsed beyond their sum likewise (0), number of
    attempts (1).
    """
    elapsed = round(result.elapsed_ms * 10)
    measured, status_code, started_at = result.phases, result.status_code, result.started_at
    phases = [round(measured[name] * 10) if name in measured else None for name in PHASES]
    packed = _packed(
        [
            _VERDICTS[result.verdict] or None,
            None if status_code == _ORDINARY_CODE else status_code or 0,
            None if result.scheduled_at is None else started_at - result.scheduled_at,
            None if result.enqueued_at is None else started_at - result.enqueued_at,
            result.finished_at - started_at - elapsed // 10 or None,
            *phases,
            elapsed - sum(filter(None, phases)) or None,
            None if len(result.attempts) == 1 else len(result.attempts),
        ]
    )
    if result.reason is not None:
        packed += (result.reason if result.sentence is None else f"{result.reason},{result.sentence}").encode()
    return packed


def unpack(entry_id: bytes, packed: bytes) -> dict[str, Any]:
    """The inverse of :func:`pack`, as :meth:`shared.store.Recording.history` returns it."""
    started_at = int(entry_id.split(b"-")[0])
    numbers, rest = _unpacked(packed)
    verdict, status_code, lag, waited, beyond, *measured, unmeasured, attempts = numbers
    reason, comma, sentence = rest.decode().partition(",")
    elapsed = sum(value or 0 for value in (*measured, unmeasured))
    phases = {name: value / 10 for name, value in zip(PHASES, measured, strict=True) if value is not None}
    return {
        "scheduled_at": started_at - lag if lag is not None else None,
        "enqueued_at": started_at - waited if waited is not None else None,
        "started_at": started_at,
        "finished_at": started_at + elapsed // 10 + (beyond or 0),
        "verdict": _BY_NUMBER[verdict or 0],
        "status_code": _ORDINARY_CODE if status_code is None else status_code or None,
        "elapsed_ms": elapsed / 10,
        "phases": phases,
        "bottleneck": max(phases, key=phases.__getitem__) if phases else None,
        "attempts": 1 if attempts is None else attempts,
        "reason": reason or None,
        "sentence": sentence if comma else None,
    }


def _packed(numbers: list[int | None]) -> bytes:
    there, packed = 0, bytearray(2)
    for place, number in enumerate(numbers):
        if number is None:
            continue
        there |= 1 << place
        left = number * 2 if number >= 0 else -number * 2 - 1
        while left > 127:
            packed.append(left & 127 | 128)
            left >>= 7
        packed.append(left)
    packed[:2] = there.to_bytes(2, "little")
    return bytes(packed)


def _unpacked(packed: bytes) -> tuple[list[int | None], bytes]:
    """The numbers, and what follows them."""
    there, at = int.from_bytes(packed[:2], "little"), 2
    numbers: list[int | None] = [None] * _NUMBERS
    for place in range(_NUMBERS):
        if there & 1 << place:
            left = shift = 0
            while packed[at] > 127:
                left |= (packed[at] & 127) << shift
                shift += 7
                at += 1
            left |= packed[at] << shift
            at += 1
            numbers[place] = -(left + 1 >> 1) if left & 1 else left >> 1
    return numbers, packed[at:]
