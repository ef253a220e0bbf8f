"""A hundred thousand targets at their ordinary pace: what all processes use, and how late the checks are."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from benchmarks.accounts import Meter, family, resident_mb
from benchmarks.growth import ADDRESSES, seed
from benchmarks.results import Listener, lateness
from benchmarks.switch import Switch
from benchmarks.whole import Monitor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=int, default=100_000, metavar="N", help="targets (100,000)")
    parser.add_argument("--interval", type=int, default=300, metavar="S", help="seconds between two checks (300)")
    parser.add_argument("--seconds", type=int, default=300, metavar="S", help="how long to look (300)")
    parser.add_argument("--warm-up", type=int, default=60, metavar="S", help="after the first checks (60)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="of the pool (0: as many as it has)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Everything runs, with a light site on twenty addresses; the site's own CPU is told apart."""
    with ExitStack() as stack:
        site = stack.enter_context(Switch(ADDRESSES))
        monitor = stack.enter_context(Monitor(DEFAULT_HTTP_INTERVAL=str(arguments.interval)))
        if arguments.workers:
            monitor.post("/status/queue", worker_thread=arguments.workers)
        seed(monitor, site, arguments.targets)
        time.sleep(arguments.warm_up)
        meter, aside = Meter(monitor.pids), Meter({"site": site.pid})
        with Listener(monitor.redis) as listener:
            began = time.monotonic()
            while time.monotonic() - began < arguments.seconds:
                time.sleep(1)
                monitor.keep()
            cpu, its = meter.percent(), aside.percent()
            seconds = time.monotonic() - began
        memory = {name: sum(resident_mb(each) for each in family(pid)) for name, pid in monitor.pids.items()}
        statuses = {status: monitor.count(status) for status in ("up", "down", "unknown", "pending")}
    late = lateness(listener.results)
    found = {
        "cpu_percent_of_a_core": {**cpu, "total": sum(cpu.values())},
        "site_cpu_percent": its["site"],
        "resident_mb": memory,
        "due": arguments.targets * seconds / arguments.interval,
        **late,
        "of_them_not_up": sum(each.verdict != "up" for each in listener.results),
        "statuses": statuses,
    }
    for name, value in found.items():
        print(f"{name:>24}  {_shown(value)}")
    return {"targets": arguments.targets, "interval": arguments.interval, "seconds": seconds, **found}


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{name} {_shown(each)}" for name, each in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
