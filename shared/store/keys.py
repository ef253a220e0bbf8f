"""The name of every key that the monitor keeps in Redis. RQ's and rq-scheduler's own keys are not here.

=================================  ======  ==========================================================================
key                                type    what
=================================  ======  ==========================================================================
monitor:target:{id}                hash    check (JSON), revision, created_at, order, interval (0: the default),
                                           bucket, state (JSON), latest (JSON, newest result), baseline (JSON), good
                                           (JSON, the last good answer's summary), hour and day (the sums that are
                                           not full yet, as in the rings below), identity, by_title, by_endpoint
                                           (digests)
monitor:targets                    zset    every id, by order of creation
monitor:status:{status}            zset    the ids in that status, by order of creation
monitor:checked                    zset    id -> end of its newest recorded check (ms)
monitor:identity                   hash    digest of (title, endpoint) -> id
monitor:title:{digest}             set     ids with that title
monitor:endpoint:{digest}          set     ids with that endpoint
monitor:bucket:{interval}:{n}      set     ids of one interval (0: the default) whose hash falls into bucket n of 60
monitor:buckets                    set     "interval:n" of every bucket that holds an id
monitor:results:{id}               stream  the history; entry id is the check's start, field p the packed result
monitor:failures:{id}              list    the newest 50 failures, newest first, with their evidence (zlib, JSON)
monitor:hours:{id}                 hash    ring of 48 hours that are over: hour mod 48 ->
                                           "hour,up,down,unknown,elapsed_ms"
monitor:days:{id}                  hash    ring of 90 days that are over: day mod 90 -> the same
monitor:incident:{id}              hash    target, title, endpoint (redacted), opened_at, detected_at, confirmed_at,
                                           flapping_at, calm_at, closed_at (ms), reason, sentence, by, opinion (JSON,
                                           the first check that failed), evidence (zlib, JSON), opened and closed (JSON
                                           alerts), reminders, deleted, acknowledged (JSON: by, note, at), told:{alert
                                           id} (JSON: what became of the mail), told:notifications:{alert id}; expires
                                           once closed
monitor:incidents                  zset    incident id -> when it opened (ms), newest 10,000
monitor:incidents:open             zset    the same of those that are open
monitor:incidents:of:{target id}   zset    the same of one target, newest 1,000
monitor:maintenance                hash    id of a maintenance window -> the window (JSON)
monitor:events                     stream  what happened, newest 10,000 or so; entry id is "number of its last event-how
                                           many", field e has three lines an event: type, target, data (JSON)
monitor:event                      string  number of the newest event
monitor:due                        zset    id of a target that is watched -> when its next result is overdue (ms)
monitor:default-interval           string  the interval of targets without one of their own, as the scheduler knows it
monitor:reminders                  zset    open incident -> when people are reminded of it (ms)
monitor:troubles                   hash    what is wrong with the monitor itself: name -> alert that told of it (JSON)
monitor:alert-delay                hash    how long alerts took from the check to the server: upper bound (s) -> count,
                                           inf, sum_ms
{box}                              zset    alerts that wait: id -> when to send (ms); a box is monitor:outbox, the
                                           mails, or monitor:notifications
{box}:sending                      zset    alerts that a deliver job has taken: id -> when its lease ends (ms)
{box}:dead                         zset    alerts given up: id -> when (ms)
{box}:entry:{id}                   hash    alert (JSON), since, tries, target, parent (ids), audience (who is told
                                           beside the recipients of the settings), mail (id of the mail it was put
                                           into), error, to (JSON: who has not had that mail yet; absent: all)
{box}:report                       string  the report that waits, if it still does
{box}:hold                         hash    until (ms), failures, since (ms): after a failed mail nothing is sent before
                                           ``until``
{box}:pace                         hash    audience -> "when its next mail may go (ms),pause (ms),when the newest of
                                           what it was owed was due (ms)"
monitor:order                      string  counter behind ``order``
monitor:orders                     string  counter of changes to the set of buckets: the reconciler watches it
monitor:changes                    string  counter of changes worth a snapshot
monitor:born                       string  id of this store, set once the snapshot was read; its absence means that
                                           Redis was emptied behind our back
monitor:snapshot                   hash    what is known of the snapshot file: digest, writing, changes, at, error
monitor:secret                     string  32 random bytes: what signs the links of mails
monitor:queue                      hash    worker_thread, queue_size: the pool's size and the queue's bound
monitor:batch                      hash    run, started_at, ended_at of the latest check batch (ms)
monitor:scheduler:{name}           hash    beat (ms), pid, host of one scheduler; expires
monitor:schedulers                 zset    scheduler name -> its last beat (ms)
monitor:runs                       zset    run -> when its next sign of life is overdue (ms); a run is the id of a job
monitor:run:{id}                   hash    number -> a piece of its work (JSON: began (ms), function, arguments); begun:
                                           stays when there is none any more; expires
monitor:load:{minute}              hash    what the runs that ended in that minute did: checks, cpu_us, flight_ms,
                                           run_ms, open_ms; expires
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
OPEN_INCIDENTS = "monitor:incidents:open"
MAINTENANCE = "monitor:maintenance"
EVENTS = "monitor:events"
OUTBOX = "monitor:outbox"
NOTIFICATIONS = "monitor:notifications"
REMINDERS = "monitor:reminders"
TROUBLES = "monitor:troubles"
DUE = "monitor:due"
DEFAULT_INTERVAL = "monitor:default-interval"
ALERT_DELAY = "monitor:alert-delay"
ORDERS = "monitor:orders"
CHANGES = "monitor:changes"
BORN = "monitor:born"
SNAPSHOT = "monitor:snapshot"
SIGNING = "monitor:secret"
QUEUE = "monitor:queue"
BATCH = "monitor:batch"
RUNS = "monitor:runs"
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


def incidents_of(target_id: str) -> str:
    return f"monitor:incidents:of:{target_id}"


def outbox_entry(box: str, alert_id: str) -> str:
    return f"{box}:entry:{alert_id}"


def sending(box: str) -> str:
    return f"{box}:sending"


def dead(box: str) -> str:
    return f"{box}:dead"


def hold(box: str) -> str:
    return f"{box}:hold"


def run(run_id: str) -> str:
    return f"monitor:run:{run_id}"


def load(minute: int) -> str:
    return f"monitor:load:{minute}"


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
