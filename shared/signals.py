"""What happens inside a process, as it happens: blinker signals that anybody in the same process may connect to.

``worker.jobs`` connects them to the event stream in Redis. Receivers are called in the loop that moves the checks, so
they must be quick and must not raise.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

check_started = _signals.signal("check-started", doc="Sent with target (Target) and at (ms) when a check begins.")
check_retried = _signals.signal(
    "check-retried",
    doc="Sent with target (Target), attempt (the monitor.Attempt that failed) and wait_ms before the next one.",
)
check_finished = _signals.signal("check-finished", doc="Sent with target and result (CheckResult), recorded.")
target_flipped = _signals.signal("target-flipped", doc="Sent with target (Target) and flip (Flip), recorded.")
alert_mailed = _signals.signal("alert-mailed", doc="Sent with alert_ids and mail_id once a server took the mail.")
