"""Keeping the snapshot file and Redis true to each other: restore what was lost, write what has changed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace

from shared.queues import Queues
from shared.settings import Settings
from shared.snapshot import Draft, Saved, SnapshotError, decode, decode_all, digest_of, lines, read, set_aside
from shared.state import Status
from shared.store import SnapshotRecord, Store, Stored

WRITE_AT_LEAST_EVERY_MS = 60_000
_PAGE = 1000
_LEASE = "snapshot-file"

log = logging.getLogger("snapshot")


class SnapshotKeeper:
    """One run of the snapshot job.

    A store is *born* once the snapshot has been read into it. As long as it is not, because Redis is new or was
    emptied behind our back, nothing is written over the file. An empty list of a born store is what people want.
    """

    def __init__(self, store: Store, queues: Queues, settings: Settings) -> None:
        self._store = store
        self._queues = queues
        self._settings = settings
        self._path = settings.snapshot_path
        self._run = f"{os.getpid()}-{time.time_ns()}"

    def keep(self) -> None:
        """Restore if need be, then write if something changed, or if the file is a minute old."""
        if not self._store.vitals.lease(_LEASE, self._run):
            return
        try:
            self._restore_if_lost()
            self._write_if_due()
        except SnapshotError as error:
            log.error("%s", error)
            self._store.vitals.set_snapshot(error=str(error))
        finally:
            self._store.vitals.release([_LEASE], self._run)

    def _prove_alive(self) -> None:
        """Asked for at every thousand targets, so that no other run begins to write meanwhile."""
        self._store.vitals.renew([_LEASE], self._run)

    # --- reading ---

    def _restore_if_lost(self) -> None:
        vitals = self._store.vitals
        is_born = vitals.is_born()
        if is_born and self._store.targets.count():
            return
        content = read(self._path)
        record = vitals.snapshot()
        # A file that we read or wrote ourselves held what people have emptied since.
        if content is not None and not (is_born and digest_of(content) in (record.digest, record.writing)):
            self._restore(content)
        vitals.bear()

    def _restore(self, content: bytes) -> None:
        contents = decode_all(content, self._path)
        saved = contents.targets
        # First of all, so that no check that begins here alarms anybody for what is planned.
        self._store.maintenance.restore(contents.maintenance)
        restored: list[str] = []
        for start in range(0, len(saved), _PAGE):
            chunk = [self._with_expected_code(entry) for entry in saved[start : start + _PAGE]]
            restored += [written.target.id for written in self._store.targets.restore(chunk, now=_now())]
            self._prove_alive()
        self._store.vitals.set_snapshot(digest=digest_of(content), error="")
        log.info("%d of the %d targets in %s were read", len(restored), len(saved), self._path.name)
        unchecked = set(self._store.targets.ids(Status.PENDING))
        self._queues.enqueue_check([each for each in restored if each in unchecked])

    def _with_expected_code(self, entry: Saved) -> Saved:
        """Fix the default at the moment a target is made, as ``POST /status`` does."""
        code = self._settings.expected_code(entry.check)
        if code == entry.check.expected_http_code:
            return entry
        return replace(entry, check=entry.check.model_copy(update={"expected_http_code": code}))

    # --- writing ---

    def _write_if_due(self) -> None:
        vitals = self._store.vitals
        record, changes = vitals.snapshot(), vitals.changes()
        is_old = _now() - record.at >= WRITE_AT_LEAST_EVERY_MS
        if changes == record.changes and not is_old and not record.error:
            return
        birth = vitals.birth()
        with Draft(self._path) as draft:
            for piece in lines(self._all(), self._store.maintenance.all(), now=_now()):
                draft.write(piece)
            # A Redis emptied while we read would otherwise empty the file too.
            if birth is None or vitals.birth() != birth:
                return
            self._keep_foreign_file(record)
            vitals.set_snapshot(writing=draft.digest)
            draft.publish()
        vitals.set_snapshot(digest=draft.digest, changes=changes, at=_now(), error="")

    def _all(self) -> Iterator[Stored]:
        after = 0
        while page := self._store.targets.stored(after=after, limit=_PAGE):
            yield from page
            after = page[-1].order
            self._prove_alive()

    def _keep_foreign_file(self, record: SnapshotRecord) -> None:
        """A file that is not ours any more: one that cannot be read stays (SnapshotError), another is set aside."""
        content = read(self._path)
        if content is None or digest_of(content) in (record.digest, record.writing):
            return
        decode(content, self._path)
        aside = set_aside(self._path)
        log.warning("%s was changed by somebody else; their version is kept as %s", self._path.name, aside.name)


def _now() -> int:
    return int(time.time() * 1000)
