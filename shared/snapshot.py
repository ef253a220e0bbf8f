"""The JSON snapshot: its shape, how it is written so that nobody ever reads half a file, and how it is read.

The file, as written here (people may write just ``{"targets": [...]}`` in the shape of ``POST /status``)::

    {"format": 1,
     "written_at": "2026-11-22T17:00:00Z",
     "targets": [{"id": "3f0c2a9d1b7e4f65",          # kept across restores; absent in files written by hand
                  "title": ..., "endpoint": ...,      # and the other fields of shared.monitor.Check that are set
                  "state": {...},                     # shared.monitor.State.document
                  "latest": {...}}],                  # the newest result, shared.monitor.CheckResult.document
     "maintenance": [{"id": "9d1b7e4f653f0c2a",      # absent in files written by hand
                      "title": ..., "start": ...}]}  # and the other fields of shared.maintenance.MaintenancePlan

``maintenance`` is left out where there is none. The file holds the endpoints with their passwords, so it is written
with mode 0600.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson
from pydantic import ValidationError

from shared.check import Check, ContradictionError
from shared.maintenance import Maintenance
from shared.monitor import MonitorError
from shared.settings import Settings
from shared.state import State, Status
from shared.store import Stored
from shared.store.maintenance import MOST_WINDOWS

FORMAT = 1
_BUFFER_BYTES = 1024 * 1024
_HEAD = re.compile(rb'\{"format": 1, "written_at": "[0-9TZ:-]{20}", "targets": \[\n')
_ID = re.compile(r"[0-9a-f]{16}")


class SnapshotError(MonitorError):
    """A snapshot that cannot be read or written; the text names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One target as the file has it; in files written by hand only ``check`` is there."""

    id: str | None
    check: Check
    state: State | None
    latest: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Contents:
    """What the file holds; a window that was written by hand has no id."""

    targets: list[Saved]
    maintenance: list[Maintenance]


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def encode(targets: Iterable[Stored], maintenance: Iterable[Maintenance] = (), *, now: int) -> bytes:
    """The whole file's content, of targets that are few; :func:`lines` in one piece."""
    return b"".join(lines(targets, maintenance, now=now))


def lines(targets: Iterable[Stored], maintenance: Iterable[Maintenance] = (), *, now: int) -> Iterator[bytes]:
    """The file's content piece by piece, one target or window a line, so that people can read and compare it."""
    written_at = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    yield b'{"format": %d, "written_at": "%s", "targets": [\n' % (FORMAT, written_at.encode())
    between = b""
    for stored in targets:
        yield between + _line(stored)
        between = b",\n"
    windows = b",\n".join(orjson.dumps(_window_document(window)) for window in maintenance)
    planned = b', "maintenance": [\n%s\n]' % windows if windows else b""
    yield b"\n]%s}\n" % planned


def _window_document(window: Maintenance) -> dict[str, Any]:
    return {"id": window.id, **window.document()}


def _line(stored: Stored) -> bytes:
    """One target; what stands in Redis is passed on without a look, for there may be a hundred thousand of them."""
    document: dict[str, Any] = {"id": stored.id, **orjson.loads(stored.check)}
    if not document.get("paused"):
        document.pop("paused", None)
    document["state"] = orjson.Fragment(stored.state)
    if stored.latest is not None:
        document["latest"] = orjson.Fragment(stored.latest)
    return orjson.dumps(document)


def read(path: Path) -> bytes | None:
    """The file's content, None when there is no file. Raises SnapshotError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from None


def decode(content: bytes, path: Path) -> list[Saved]:
    """The targets in the file. Raises SnapshotError, as :func:`decode_all` does."""
    return decode_all(content, path).targets


def decode_all(content: bytes, path: Path) -> Contents:
    """What the file holds. Raises SnapshotError, which names the file, the target or window, and the field."""
    with _without_collecting():
        try:
            own = list(_own_targets(content, path))
        except _NotOursError:
            own = None
    return (
        _contents(content, path)
        if own is None
        else Contents(own, _contents(_without_targets(content), path).maintenance)
    )


def _contents(content: bytes, path: Path) -> Contents:
    """What any file holds, also one that people wrote. Raises SnapshotError."""
    document = _parsed(content, path)
    if not isinstance(document, dict) or not isinstance(document.get("targets"), list):
        raise SnapshotError(f'{path}: is not a snapshot: it must be an object with a list "targets"')
    if unknown := sorted(document.keys() - {"format", "written_at", "targets", "maintenance"}):
        raise SnapshotError(f"{path}: holds {unknown[0]!r}, which no snapshot has")
    if document.get("format", FORMAT) != FORMAT:
        raise SnapshotError(f"{path}: has format {document['format']!r}, and this program reads format {FORMAT}")
    windows = document.get("maintenance", [])
    if not isinstance(windows, list) or len(windows) > MOST_WINDOWS:
        raise SnapshotError(f"{path}: maintenance must be a list of at most {MOST_WINDOWS} windows")
    return Contents(
        [_saved(entry, f"{path}: targets[{index}]") for index, entry in enumerate(document["targets"])],
        [_planned(entry, f"{path}: maintenance[{index}]") for index, entry in enumerate(windows)],
    )


def _parsed(content: bytes, path: Path) -> Any:
    """The JSON of the file, read with care. Raises SnapshotError."""
    try:
        orjson.loads(content)
        # People write this file too, and a name that stands twice would hide what stands first.
        return json.loads(content, object_pairs_hook=_once)
    except _TwiceError as error:
        raise SnapshotError(f"{path}: names {error} twice in one object") from None
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{path}: is not complete JSON: {error}") from None


class _NotOursError(ValueError):
    """The file is not, to the letter, as :func:`lines` writes it."""


def _own_targets(content: bytes, path: Path) -> Iterator[Saved]:
    """The targets of a file as :func:`lines` writes it. Raises _NotOursError, perhaps late, and SnapshotError.

    What is the same when it is written again holds no name twice, so that the care that people's files want, which
    takes seconds for a hundred thousand targets, is not needed.
    """
    head = _HEAD.match(content)
    if head is None:
        raise _NotOursError
    start, end = head.end(), _end_of_targets(content)
    index = 0
    while start < end:
        comma = content.find(b",\n", start, end)
        line = content[start : comma if comma >= 0 else end]
        try:
            entry = orjson.loads(line)
        except ValueError:
            raise _NotOursError from None
        if not isinstance(entry, dict) or orjson.dumps(entry) != line:
            raise _NotOursError
        yield _saved(entry, f"{path}: targets[{index}]")
        start += len(line) + 2
        index += 1


def _without_targets(content: bytes) -> bytes:
    """The file of :func:`lines` without its targets."""
    head = _HEAD.match(content)
    return content[: head.end() if head else 0] + content[_end_of_targets(content) :]


def _end_of_targets(content: bytes) -> int:
    """Where the line ends behind which the list of targets does, too: no target begins with a bracket."""
    end = content.find(b"\n]")
    return end if end >= 0 else len(content)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Has the collector wait: it would look at hundreds of thousands of new values again and again, and keep all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _TwiceError(ValueError):
    """The text is the name that stands twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(repr(name[:40]))
        found[name] = value
    return found


def _saved(entry: Any, where: str) -> Saved:
    if not isinstance(entry, dict):
        raise SnapshotError(f"{where}: must be an object")
    fields = dict(entry)
    target_id, state, latest = fields.pop("id", None), fields.pop("state", None), fields.pop("latest", None)
    if target_id is not None and not (isinstance(target_id, str) and _ID.fullmatch(target_id)):
        raise SnapshotError(f"{where}: id must be 16 hexadecimal digits")
    try:
        check = Check.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise SnapshotError(f"{where}: {field}: {problem['msg'].removeprefix('Value error, ')}") from None
    try:
        known = None if state is None else State.parse(state)
    except ValueError as error:
        rule, _, field = str(error).partition(" - at `$")
        raise SnapshotError(f"{where}: state{field.rstrip('`')}: {rule}") from None
    if known is not None and not _is_possible(known):
        raise SnapshotError(f"{where}: state: is not one that this program wrote")
    return Saved(target_id, check, known, latest if known and known.checked_at and isinstance(latest, dict) else None)


def _planned(entry: Any, where: str) -> Maintenance:
    if not isinstance(entry, dict):
        raise SnapshotError(f"{where}: must be an object")
    try:
        return Maintenance.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        fault = problem.get("ctx", {}).get("error")
        field = fault.field if isinstance(fault, ContradictionError) else ".".join(map(str, problem["loc"]))
        rule = fault.rule if isinstance(fault, ContradictionError) else problem["msg"].removeprefix("Value error, ")
        raise SnapshotError(f"{where}: {field}: {rule}") from None


def _is_possible(state: State) -> bool:
    """Whether the rule of state could have led here: an incident is open while down, and not while up."""
    is_open = state.incident is not None
    return is_open is (state.down_at is not None) and state.status not in (
        (Status.UP, Status.DEGRADED) if is_open else (Status.DOWN,)
    )


def preflight(settings: Settings) -> None:
    """Refuse to start on a snapshot that cannot be read, before anything could overwrite it. Raises SnapshotError."""
    content = read(settings.snapshot_path)
    if content is None:
        return
    try:
        for _ in _own_targets(content, settings.snapshot_path):
            pass  # One by one: this process lives long, and keeps what memory it has had.
    except _NotOursError:
        decode_all(content, settings.snapshot_path)
    else:
        _contents(_without_targets(content), settings.snapshot_path)


def write(path: Path, content: bytes) -> None:
    """Replace the file, as a :class:`Draft` does."""
    with Draft(path) as draft:
        draft.write(content)
        draft.publish()


class Draft:
    """A new file that takes the place of the old one, whole or not at all, also when this process or the machine dies.

    There is one temporary name, so that a kill leaves no litter; the caller sees to it that there is one writer.
    Everything here raises SnapshotError; the old file is whole then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._digest = hashlib.sha256()
        self._file: BinaryIO

    def __enter__(self) -> Self:
        with self._naming_the_file():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES)
            os.fchmod(descriptor, 0o600)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()  # There is none any more where it was published.

    def write(self, piece: bytes) -> None:
        self._digest.update(piece)
        with self._naming_the_file():
            self._file.write(piece)

    @property
    def digest(self) -> str:
        """Of what was written so far, as :func:`digest_of` has it."""
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Take the old file's place."""
        with self._naming_the_file():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.replace(self._path)
            _sync_folder(self._path.parent)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SnapshotError(f"{self._path}: cannot be written: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Keep a file that somebody else wrote under a second name, before :func:`write` replaces the first."""
    aside = path.with_name(f"{path.name}.replaced")
    try:
        aside.unlink(missing_ok=True)
        aside.hardlink_to(path)
    except OSError as error:
        raise SnapshotError(f"{aside}: cannot be written: {error.strerror}") from None
    return aside
