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

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from shared.check import Check, ContradictionError
from shared.maintenance import Maintenance
from shared.monitor import MonitorError
from shared.settings import Settings
from shared.state import State, Status
from shared.store import Watched
from shared.store.maintenance import MOST_WINDOWS

FORMAT = 1
_ID = re.compile(r"[0-9a-f]{16}")
_STATE: TypeAdapter[State | None] = TypeAdapter(State | None)


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


def encode(targets: Iterable[Watched], maintenance: Iterable[Maintenance] = (), *, now: int) -> bytes:
    """The file's content, one target or window a line, so that people can read and compare it."""
    written_at = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    windows = b",\n".join(orjson.dumps(_window_document(window)) for window in maintenance)
    planned = b', "maintenance": [\n%s\n]' % windows if windows else b""
    lines = b",\n".join(orjson.dumps(_document(watched)) for watched in targets)
    return b'{"format": %d, "written_at": "%s", "targets": [\n%s\n]%s}\n' % (
        FORMAT,
        written_at.encode(),
        lines,
        planned,
    )


def _window_document(window: Maintenance) -> dict[str, Any]:
    return {"id": window.id, **window.document()}


def _document(watched: Watched) -> dict[str, Any]:
    document: dict[str, Any] = {"id": watched.target.id, **watched.target.check.document()}
    if not watched.target.check.paused:
        del document["paused"]
    document["state"] = watched.state.document()
    if watched.latest is not None:
        document["latest"] = watched.latest
    return document


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
    try:
        orjson.loads(content)
        # People write this file too, and a name that stands twice would hide what stands first.
        document = json.loads(content, object_pairs_hook=_once)
    except _TwiceError as error:
        raise SnapshotError(f"{path}: names {error} twice in one object") from None
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{path}: is not complete JSON: {error}") from None
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
        known = _STATE.validate_python(state)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "state"
        raise SnapshotError(f"{where}: {field}: {problem['msg'].removeprefix('Value error, ')}") from None
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
    if content is not None:
        decode(content, settings.snapshot_path)


def write(path: Path, content: bytes) -> None:
    """Replace the file, whole or not at all, also when this process or the machine dies in between.

    There is one temporary name, so that a kill leaves no litter; the caller sees to it that there is one writer.
    Raises SnapshotError; the old file is whole then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SnapshotError(f"{path}: cannot be written: {error.strerror}") from None


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
