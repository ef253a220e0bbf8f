"""Targets in Redis: written all or nothing, found by id, page, slot, title and endpoint."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Protocol

import orjson
from msgspec import Struct, structs
from redis import Redis

from shared.baseline import Baseline
from shared.check import TRUSTED, Check, ContradictionError
from shared.monitor import MonitorError, Target
from shared.state import State, Status
from shared.store import keys
from shared.store.scripts import read_script

_WRITE = read_script("targets_write")
_DELETE = read_script("targets_delete")
_LOAD = read_script("targets_load")

log = logging.getLogger(__name__)

_LOADED_AT_ONCE = 500
_FIELDS = ("check", "revision", "created_at", "order", "state", "baseline", "latest")
_WRITE_TRIES = 20
_DEEPEST_PARENTS = 10
_LONGEST_FIRST_CHECK_MS = 60_000
"""After which the first result of a target is overdue, beside two intervals; the settings are not known here."""


class TargetTakenError(MonitorError):
    """Another target already has this title and endpoint."""


class TooMuchChangeError(MonitorError):
    """A write lost the race against others again and again; nothing was changed."""


class Watched(Struct, frozen=True):
    """A target with what is believed of it, as read in one moment."""

    target: Target
    state: State
    order: int
    """Position in the order of creation; pages continue after it."""
    raw_latest: bytes | None
    """None, too, where it was not asked for."""
    raw_state: bytes
    """The state as it stands in Redis: what recording compares before it sets."""
    baseline: Baseline = Baseline()
    """What is usual for this target."""

    @property
    def latest(self) -> dict[str, Any] | None:
        """The newest result as :meth:`shared.monitor.CheckResult.document` writes it; None before the first."""
        return orjson.loads(self.raw_latest) if self.raw_latest else None


@dataclass(frozen=True, slots=True)
class Stored:
    """A target as it stands in Redis, for whoever only passes it on; the last three are JSON, as it was written."""

    id: str
    order: int
    check: bytes
    state: bytes
    latest: bytes | None


@dataclass(frozen=True, slots=True)
class Written:
    """One target of a request, after it was written."""

    target: Target
    created: bool
    changed: bool


class Restorable(Protocol):
    """What a snapshot knows of one target."""

    @property
    def id(self) -> str | None: ...
    @property
    def check(self) -> Check: ...
    @property
    def state(self) -> State | None: ...
    @property
    def latest(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class _Draft:
    """One target as it shall be written; ``before`` is what was read, None for a new one."""

    id: str
    check: Check
    before: Watched | None
    created_at: int

    @property
    def changed(self) -> bool:
        return self.before is None or self.before.target.check != self.check


def digest(*parts: str | None) -> str:
    """A short stable digest for index keys; None and "" differ."""
    return hashlib.blake2b(orjson.dumps(parts), digest_size=12).hexdigest()


def bucket_of(target_id: str) -> int:
    """Which of the 60 buckets a target belongs to: a stable hash of its id, the same on every machine."""
    raw = hashlib.blake2b(target_id.encode(), digest_size=8).digest()
    return int.from_bytes(raw, "big") % keys.BUCKET_COUNT


def buckets_of_slot(interval: int, slot: int) -> range:
    """The buckets whose targets a slot of ``interval`` seconds checks; an interval has ``slot_count`` slots."""
    return range(slot, keys.BUCKET_COUNT, slot_count(interval))


def slot_count(interval: int) -> int:
    return min(interval, keys.BUCKET_COUNT)


class Targets:
    """Every target. One instance a process; it holds no data of its own."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._write = redis.register_script(_WRITE)
        self._delete = redis.register_script(_DELETE)
        self._load = redis.register_script(_LOAD)

    # --- writing ---

    def put(self, checks: Sequence[Check], *, now: int) -> list[Written]:
        """Create or update one target for each check, all or nothing; (title, endpoint) identifies.

        For a target that exists, the fields that the check does not name keep their value; ``expected_http_code``
        is always taken as it is. Safe to repeat. Raises TooMuchChangeError, and ContradictionError where a check and
        what it updates do not go together.
        """
        for _ in range(_WRITE_TRIES):
            drafts = self._with_parents(self._draft(checks, now))
            changed = list({draft.id: draft for draft in drafts if draft.changed}.values())
            if not changed or self._commit(changed, now) == "ok":
                return _written(drafts)
        raise TooMuchChangeError("the targets are changing too fast to be written; nothing was changed")

    def _draft(self, checks: Sequence[Check], now: int) -> list[_Draft]:
        identities = [digest(check.title, check.endpoint) for check in checks]
        ids = self._redis.hmget(keys.IDENTITY, identities) if identities else []
        found = {watched.target.id: watched for watched in self.load([raw.decode() for raw in ids if raw])}
        latest: dict[str, _Draft] = {}
        drafts = []
        for index, (check, identity, raw) in enumerate(zip(checks, identities, ids, strict=True)):
            earlier = latest.get(identity)
            before = found.get(raw.decode()) if raw else None
            base = earlier.check if earlier else before.target.check if before else None
            try:
                merged = _merge(base, check)
            except ContradictionError as error:
                error.index = index
                raise
            draft = _Draft(
                id=earlier.id if earlier else before.target.id if before else secrets.token_hex(8),
                check=merged,
                before=before,
                created_at=before.target.created_at if before else now,
            )
            latest[identity] = draft
            drafts.append(draft)
        return [
            replace(draft, check=latest[identity].check) for draft, identity in zip(drafts, identities, strict=True)
        ]

    def _with_parents(self, drafts: Sequence[_Draft], *, is_lenient: bool = False) -> list[_Draft]:
        """The drafts with each parent as an id; raises ContradictionError for one that is none, or that is its child.

        A parent may be named by its title, too, where one target alone has it, also when it is of the same request.
        ``is_lenient`` drops a parent that is not there: of a snapshot, everything else is worth having.
        """
        names = {draft.check.parent for draft in drafts if draft.check.parent and draft.changed}
        if not names:
            return list(drafts)
        ids = self._ids_of(names, drafts)
        resolved = []
        for index, draft in enumerate(drafts):
            parent = draft.check.parent
            if parent not in names:
                resolved.append(draft)
                continue
            found: list[str | None] = [*ids[parent]]
            if len(found) != 1 and is_lenient:
                log.warning("the parent %r of the target %s is not there", parent, draft.id)
                found = [None]
            if len(found) != 1:
                rule = f"must be the id, or the title, of one target ({parent!r} is that of {len(found) or 'none'})"
                raise _contradiction(index, rule)
            resolved.append(replace(draft, check=draft.check.model_copy(update={"parent": found[0]})))
        self._refuse_circles(resolved)
        return resolved

    def refuse_unknown_parent(self, check: Check) -> None:
        """Raises ContradictionError where a target like this could not be written because of its parent."""
        self._with_parents([_Draft("", check, None, 0)])

    def _ids_of(self, names: Iterable[str], drafts: Sequence[_Draft]) -> dict[str, set[str]]:
        """Whose id or title these names are."""
        names = list(names)
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.exists(keys.target(name))
                pipe.smembers(keys.by_title(digest(name)))
            answers = pipe.execute()
        found = {}
        for name, is_id, titled in zip(names, answers[::2], answers[1::2], strict=True):
            found[name] = {name} if is_id else {raw.decode() for raw in titled}
            if not is_id:
                found[name] |= {draft.id for draft in drafts if name in (draft.id, draft.check.title)}
        return found

    def _refuse_circles(self, drafts: Sequence[_Draft]) -> None:
        parents = {draft.id: draft.check.parent for draft in drafts}
        for index, draft in enumerate(drafts):
            above, seen = draft.check.parent, {draft.id}
            while above is not None and len(seen) <= _DEEPEST_PARENTS:
                if above in seen:
                    raise _contradiction(index, "must not be the target itself, nor one that depends on it")
                seen.add(above)
                if above not in parents:
                    watched = self.get(above)
                    parents[above] = watched.target.check.parent if watched else None
                above = parents[above]
            if above is not None:
                raise _contradiction(index, f"must not be the end of more than {_DEEPEST_PARENTS} parents in a row")

    def patch(self, target_id: str, change: Callable[[Check], Check], *, now: int) -> Written | None:
        """Change one target by a pure function of its check; None when there is no such target.

        Raises TargetTakenError, TooMuchChangeError, and whatever ``change`` raises.
        """
        for _ in range(_WRITE_TRIES):
            before = self.get(target_id)
            if before is None:
                return None
            (draft,) = self._with_parents(
                [_Draft(target_id, change(before.target.check), before, before.target.created_at)]
            )
            outcome = self._commit([draft], now) if draft.changed else "ok"
            if outcome == "taken":
                raise TargetTakenError("another target has this title and endpoint")
            if outcome == "ok":
                return _written([draft])[0]
        raise TooMuchChangeError("the target is changing too fast to be written; nothing was changed")

    def restore(self, saved: Sequence[Restorable], *, now: int, is_lenient: bool = True) -> list[Written]:
        """Write targets of a snapshot that do not exist yet, under their own id, in their own state.

        An entry without an id gets a new one. Entries whose id or (title, endpoint) exists are left alone: what is
        in Redis is newer than any file. Returns what was written. Safe to repeat. Raises TooMuchChangeError; and
        ContradictionError for a parent that is not there, unless ``is_lenient``, which drops it.
        """
        for _ in range(_WRITE_TRIES):
            found = self._draft_restored(saved, now)
            drafts = self._with_parents([draft for draft, _ in found], is_lenient=is_lenient)
            if not drafts or self._commit(drafts, now, [entry for _, entry in found]) == "ok":
                return _written(drafts)
        raise TooMuchChangeError("the targets are changing too fast to be restored")

    def _draft_restored(self, saved: Sequence[Restorable], now: int) -> list[tuple[_Draft, Restorable]]:
        identities = [digest(each.check.title, each.check.endpoint) for each in saved]
        known = self._redis.hmget(keys.IDENTITY, identities) if identities else []
        taken = self._existing({entry.id for entry in saved if entry.id})
        drafts: dict[tuple[str | None, str], tuple[_Draft, Restorable]] = {}
        ids: set[str] = set()
        for entry, owner in zip(saved, known, strict=True):
            identity = (entry.check.title, entry.check.endpoint)
            if owner or entry.id in taken or identity in drafts:
                continue
            # Somebody who writes a file by hand copies lines, ids included.
            own_id = entry.id if entry.id not in ids else None
            draft = _Draft(own_id or secrets.token_hex(8), entry.check, None, now)
            ids.add(draft.id)
            drafts[identity] = (draft, entry)
        return list(drafts.values())

    def _existing(self, target_ids: Set[str]) -> Set[str]:
        """Those that are there. In a Redis that was lost none is, and one question says so."""
        names = [keys.target(each) for each in target_ids]
        if not names or not self._redis.exists(*names):
            return frozenset()
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.exists(name)
            return {each for each, is_there in zip(target_ids, pipe.execute(), strict=True) if is_there}

    def _commit(self, drafts: Sequence[_Draft], now: int, restored: Sequence[Restorable] = ()) -> str:
        arguments: list[Any] = [now]
        for draft, entry in zip_longest(drafts, restored):
            arguments += _write_arguments(draft, now, entry)
        outcome: str = self._write(args=arguments)[0].decode()
        return outcome

    def delete(self, target_id: str, *, now: int) -> bool:
        """Remove a target with all its history, also while a check of it runs; False when there is none.

        Its open incident is closed without a mail; a mail that it is owed already is still sent.
        """
        return bool(self._delete(keys=[keys.target(target_id)], args=[target_id, now, INCIDENT_KEPT_SECONDS]))

    # --- reading ---

    def get(self, target_id: str) -> Watched | None:
        found = self.load([target_id])
        return found[0] if found else None

    def load(self, target_ids: Iterable[str], *, with_latest: bool = True) -> list[Watched]:
        """The targets with these ids, in this order, 500 in a round trip; those that are gone are left out.

        Whoever is about to check them has no use for their latest results, which are half of all that is read.
        """
        fields = _FIELDS if with_latest else _FIELDS[:-1]
        ids = list(target_ids)
        found = []
        for start in range(0, len(ids), _LOADED_AT_ONCE):
            some = ids[start : start + _LOADED_AT_ONCE]
            rows = self._load(args=[len(fields), *fields, *some])
            found += [_watched(target_id, row) for target_id, row in zip(some, rows, strict=True) if row[0] is not None]
        return found

    def slot(self, interval: int, slot: int, *, with_default: bool) -> list[str]:
        """The ids of one slot; ``with_default``: the targets without an interval of their own belong to it too."""
        intervals = (interval, 0) if with_default else (interval,)
        names = [keys.bucket(each, number) for each in intervals for number in buckets_of_slot(interval, slot)]
        return sorted(raw.decode() for raw in self._redis.sunion(names))

    def intervals(self) -> dict[int, set[int]]:
        """For every interval that is in use (0: the default), the buckets that hold a target."""
        found: dict[int, set[int]] = {}
        for member in self._redis.smembers(keys.BUCKETS):
            interval, number = member.decode().split(":")
            found.setdefault(int(interval), set()).add(int(number))
        return found

    def checks_per_second(self, default_interval: int) -> float:
        """How many checks the schedule asks for, those of paused targets left out; one count a bucket."""
        buckets = [(interval, number) for interval, numbers in self.intervals().items() for number in numbers]
        with self._redis.pipeline(transaction=False) as pipe:
            for interval, number in buckets:
                pipe.scard(keys.bucket(interval, number))
            counts = pipe.execute() if buckets else []
        return float(
            sum(count / (interval or default_interval) for (interval, _), count in zip(buckets, counts, strict=True))
        )

    def page(self, *, after: int = 0, limit: int = 100, status: Status | None = None) -> list[Watched]:
        """The next ``limit`` targets behind position ``after``, in the order of creation."""
        return self.load(target_id for target_id, _ in self._places(after, limit, status))

    def stored(self, *, after: int = 0, limit: int = 100) -> list[Stored]:
        """The same targets as :meth:`page`, not parsed: half of the work."""
        places = self._places(after, limit)
        # A script would spare this process half of it, and hold up everybody else at Redis for 20 ms a thousand.
        with self._redis.pipeline(transaction=False) as pipe:
            for target_id, _ in places:
                pipe.hmget(keys.target(target_id), "check", "state", "latest")
            rows = pipe.execute()
        return [Stored(*place, *row) for place, row in zip(places, rows, strict=True) if row[0] is not None]

    def ids(self, status: Status) -> Iterator[str]:
        """Of all targets in that status, in the order of creation, a thousand at a time."""
        after = 0
        while places := self._places(after, 1000, status):
            yield from (target_id for target_id, _ in places)
            after = places[-1][1]

    def _places(self, after: int, limit: int, status: Status | None = None) -> list[tuple[str, int]]:
        """The ids behind position ``after``, each with its own position."""
        key = keys.status(status) if status else keys.TARGETS
        rows = self._redis.zrange(key, f"({after}", "+inf", byscore=True, offset=0, num=limit, withscores=True)
        return [(raw.decode(), int(order)) for raw, order in rows]

    def find(
        self, *, endpoint: str | None = None, title: str | None = None, after: int = 0, limit: int = 100
    ) -> tuple[list[Watched], int]:
        """A page of the targets with exactly this endpoint and title, and how many there are in all."""
        names = []
        if endpoint is not None:
            names.append(keys.by_endpoint(digest(endpoint)))
        if title is not None:
            names.append(keys.by_title(digest(title)))
        ids = sorted(raw.decode() for raw in self._redis.sinter(names))
        found = sorted(self.load(ids), key=lambda watched: watched.order)
        return [watched for watched in found if watched.order > after][:limit], len(found)

    def count(self) -> int:
        return int(self._redis.zcard(keys.TARGETS))

    def count_by_status(self) -> dict[Status, int]:
        with self._redis.pipeline(transaction=False) as pipe:
            for status in Status:
                pipe.zcard(keys.status(status))
            return dict(zip(Status, pipe.execute(), strict=True))

    def newest(self) -> tuple[str, int] | None:
        """The id of the target whose check ended last, and when that was (ms); None before the first."""
        found = self._redis.zrange(keys.CHECKED, 0, 0, desc=True, withscores=True)
        return (found[0][0].decode(), int(found[0][1])) if found else None

    def overdue(self, *, now: int, limit: int) -> list[tuple[Watched, int]]:
        """Targets whose newest result is older than it may be, and since when that is so (ms), longest first."""
        rows = self._redis.zrange(keys.DUE, "-inf", now, byscore=True, offset=0, num=limit, withscores=True)
        since = {raw.decode(): int(due_at) for raw, due_at in rows}
        return [(watched, since[watched.target.id]) for watched in self.load(since)] if since else []

    def count_overdue(self, *, now: int) -> int:
        return int(self._redis.zcount(keys.DUE, "-inf", now))

    def set_default_interval(self, seconds: int) -> None:
        """The scheduler tells how often targets without an interval of their own are checked."""
        self._redis.set(keys.DEFAULT_INTERVAL, seconds)

    def created_last(self) -> str | None:
        """The id of the target that was created last; None when there is none."""
        found = self._redis.zrange(keys.TARGETS, 0, 0, desc=True)
        return found[0].decode() if found else None


INCIDENT_KEPT_SECONDS = 90 * 86_400
"""How long a closed incident can be read."""


def _contradiction(index: int, rule: str) -> ContradictionError:
    error = ContradictionError("parent", rule)
    error.index = index
    return error


def _merge(base: Check | None, check: Check) -> Check:
    if base is None:
        return check
    named = {name: getattr(check, name) for name in check.model_fields_set}
    return base.changed({**named, "expected_http_code": check.expected_http_code})


def _written(drafts: Sequence[_Draft]) -> list[Written]:
    seen: set[str] = set()
    written = []
    for draft in drafts:
        revision = draft.before.target.revision if draft.before else 0
        target = Target(draft.id, draft.check, revision + draft.changed, draft.created_at)
        written.append(Written(target, draft.before is None and draft.id not in seen, draft.changed))
        seen.add(draft.id)
    return written


def _paused(state: State, is_paused: bool, now: int) -> State:
    """The state of a target that was paused, or that goes on: what was counted before begins anew."""
    status = Status.PAUSED if is_paused else Status.PENDING
    return structs.replace(state, status=status, since=now, failures=0, successes=0, suspect=None, recovering_at=None)


def _write_arguments(draft: _Draft, now: int, restored: Restorable | None) -> list[Any]:
    check, before = draft.check, draft.before
    expected_state: bytes | str = ""
    state: State | None = None
    latest: dict[str, Any] | None = None
    if before is None:
        state = State(status=Status.PENDING, since=now)
        if restored is not None and restored.state is not None:
            state, latest = restored.state, restored.latest
        if check.paused is not (state.status is Status.PAUSED):
            state = _paused(state, check.paused, now)
    elif check.paused is not before.target.check.paused:
        expected_state = before.raw_state
        state = _paused(before.state, check.paused, now)
    return [
        draft.id,
        before.target.revision if before else 0,
        expected_state,
        state.encode() if state else "",
        state.status if state else "",
        bucket_of(draft.id),
        digest(check.title, check.endpoint),
        digest(check.title),
        digest(check.endpoint),
        check.interval or 0,
        int(check.paused),
        orjson.dumps(check.document()),
        orjson.dumps(latest) if latest else "",
        _LONGEST_FIRST_CHECK_MS if check.timeout is None else int(_LONGEST_FIRST_CHECK_MS + 4000 * check.timeout),
    ]


def _watched(target_id: str, row: Sequence[bytes | None]) -> Watched:
    check, revision, created_at, order, state, baseline, *latest = row
    assert check is not None
    assert state is not None
    return Watched(
        target=Target(
            target_id, Check.model_validate_json(check, context=TRUSTED), int(revision or 0), int(created_at or 0)
        ),
        state=State.decode(state),
        order=int(order or 0),
        raw_latest=latest[0] if latest else None,
        raw_state=state,
        baseline=Baseline.parse(orjson.loads(baseline)) if baseline else Baseline(),
    )
