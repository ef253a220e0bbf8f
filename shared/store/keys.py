"""The name of every key that the monitor keeps in Redis. RQ's and rq-scheduler's own keys are not here.

=================================  ======  ==========================================================================
key                                type    what
=================================  ======  ==========================================================================
monitor:target:{id}                hash    check (JSON), revision, created_at, order, interval (0: the default),
                                           bucket, state (JSON), latest (JSON, newest result), baseline (JSON), good
                                           (JSON, the last good answer's summary), identity, by_title, by_endpoint
                                           (digests)
monitor:targets                    zset    every id, by order of creation
monitor:status:{status}            zset    the ids in that status, by order of creation
monitor:checked                    zset    id -> end of its newest recorded check (ms)
monitor:identity                   hash    digest of (title, endpoint) -> id
monitor:title:{digest}             set     ids with that title
monitor:endpoint:{digest}          set     ids with that endpoint
monitor:bucket:{interval}:{n}      set     ids of one interval (0: the default) whose hash falls into bucket n of 60
monitor:buckets                    set     "interval:n" of every bucket that holds an id
monitor:results:{id}               stream  the history; entry id is the check's start, field r the packed result
monitor:failures:{id}              list    the newest 50 failures, newest first, with their evidence (zlib, JSON)
monitor:hours:{id}                 hash    ring of 48: hour mod 48 -> "hour,up,down,unknown,elapsed_ms"
monitor:days:{id}                  hash    ring of 90: day mod 90 -> "day,up,down,unknown,elapsed_ms"
monitor:incident:{id}              hash    target, opened_at, opened (JSON alert), closed_at, closed (JSON alert),
                                           told:{alert id} (JSON: what became of the mail)
monitor:incidents                  zset    incident id -> when it opened (ms)
monitor:events                     stream  what happened, newest 10,000 or so: type, target, data (JSON)
monitor:outbox                     zset    alerts that wait: id -> when to send (ms)
monitor:outbox:sending             zset    alerts that a deliver job has taken: id -> when its lease ends (ms)
monitor:outbox:dead                zset    alerts given up: id -> when (ms)
monitor:outbox:entry:{id}          hash    alert (JSON), since, tries, mail (id of the mail it was put into), error,
                                           to (JSON: who has not had that mail yet; absent: all)
monitor:outbox:report              string  the report that waits, if it still does
monitor:outbox:hold                hash    until (ms), failures: after a failed mail nothing is sent before ``until``
monitor:order                      string  counter behind ``order``
monitor:orders                     string  counter of changes to the set of buckets: the reconciler watches it
monitor:changes                    string  counter of changes worth a snapshot
monitor:born                       string  id of this store, set once the snapshot was read; its absence means that
                                           Redis was emptied behind our back
monitor:snapshot                   hash    what is known of the snapshot file: digest, writing, changes, at, error
monitor:queue                      hash    worker_thread, queue_size: the pool's size and the queue's bound
monitor:batch                      hash    run, started_at, ended_at of the latest check batch (ms)
monitor:scheduler:{name}           hash    beat (ms), pid, host of one scheduler; expires
monitor:schedulers                 zset    scheduler name -> its last beat (ms)
monitor:lease:{work}               string  job id of the run that works on a slot now; expires within seconds
monitor:straggling:{slot}          zset    target id -> deadline (ms) of a check that outlives its slot's turn
monitor:turn:{entry}               string  job id of the newest turn of a schedule entry
monitor:trial:{id}                 string  a check to try out (JSON); expires
monitor:trial:{id}:result          string  its result (JSON); expires
monitor:limit:{name}               string  counter of a rate limit; expires
monitor:schedule:aside             hash    entries of the schedule that could not be read -> when (ms)
=================================  ======  ==========================================================================
"""

from __future__ import annotations

TARGETS = "monitor:targets"
CHECKED = "monitor:checked"
IDENTITY = "monitor:identity"
BUCKETS = "monitor:buckets"
INCIDENTS = "monitor:incidents"
EVENTS = "monitor:events"
OUTBOX = "monitor:outbox"
SENDING = "monitor:outbox:sending"
DEAD = "monitor:outbox:dead"
HOLD = "monitor:outbox:hold"
ORDERS = "monitor:orders"
CHANGES = "monitor:changes"
BORN = "monitor:born"
SNAPSHOT = "monitor:snapshot"
QUEUE = "monitor:queue"
BATCH = "monitor:batch"
SCHEDULERS = "monitor:schedulers"
ASIDE = "monitor:schedule:aside"

BUCKET_COUNT = 60
HOURS_KEPT = 48
DAYS_KEPT = 90


def target(target_id: str) -> str:
    return f"monitor:target:{target_id}"


def status(name: str) -> str:
    return f"monitor:status:{name}"


def bucket(interval: int, number: int) -> str:
    return f"monitor:bucket:{interval}:{number}"


def by_title(digest: str) -> str:
    return f"monitor:title:{digest}"


def by_endpoint(digest: str) -> str:
    return f"monitor:endpoint:{digest}"


def results(target_id: str) -> str:
    return f"monitor:results:{target_id}"


def failures(target_id: str) -> str:
    return f"monitor:failures:{target_id}"


def hours(target_id: str) -> str:
    return f"monitor:hours:{target_id}"


def days(target_id: str) -> str:
    return f"monitor:days:{target_id}"


def incident(incident_id: str) -> str:
    return f"monitor:incident:{incident_id}"


def outbox_entry(alert_id: str) -> str:
    return f"monitor:outbox:entry:{alert_id}"


def lease(work: str) -> str:
    return f"monitor:lease:{work}"


def straggling(slot: str) -> str:
    return f"monitor:straggling:{slot}"


def turn(entry: str) -> str:
    return f"monitor:turn:{entry}"


def trial(trial_id: str) -> str:
    return f"monitor:trial:{trial_id}"


def trial_result(trial_id: str) -> str:
    return f"monitor:trial:{trial_id}:result"


def limit(name: str) -> str:
    return f"monitor:limit:{name}"
