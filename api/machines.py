"""For machines: ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Flask, Response, jsonify
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from api.services import Services, services
from shared.health import Health


def register(app: Flask) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MonitorCollector(app.extensions["monitor"]))
    app.add_url_rule("/livez", "livez", lambda: jsonify(alive=True))
    app.add_url_rule("/readyz", "readyz", _tell_readiness)
    app.add_url_rule(
        "/metrics", "metrics", lambda: Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
    )


def _tell_readiness() -> tuple[Response, int]:
    """200 when checks, mails and snapshots go on; else 503, and ``reasons`` says what is missing."""
    try:
        health = services().health()
    except RedisError:
        return jsonify(ready=False, reasons=["Redis does not answer"], warnings=[]), 503
    return jsonify(ready=health.is_checking, reasons=health.missing, warnings=health.warnings), (
        200 if health.is_checking else 503
    )


class MonitorCollector(Collector):
    """The vitals of the monitor, read once a scrape; ages that nobody knows yet are left out."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        """Raises redis.RedisError when Redis is away."""
        health = self._services.health()
        yield self._targets(health)
        yield self._jobs(health)
        yield self._workers(health)
        yield self._outbox(health)
        yield self._delays()
        yield GaugeMetricFamily("monitor_overdue_targets", "Targets whose newest result is too old.", health.overdue)
        yield GaugeMetricFamily("monitor_checking", "1 while checks go on as they should.", float(health.is_checking))
        if (needed := self._services.needed_workers()) is not None:
            yield GaugeMetricFamily("monitor_workers_needed", "Check workers that the load needs.", needed)
        for name, text, age in (
            ("monitor_scheduler_tick_age_seconds", "Since the scheduler's last tick.", health.scheduler_age_ms),
            ("monitor_newest_result_age_seconds", "Since the newest check began.", health.newest_result_age_ms),
        ):
            if age is not None:
                yield GaugeMetricFamily(name, text, age / 1000)

    def _targets(self, health: Health) -> Metric:
        family = GaugeMetricFamily("monitor_targets", "Targets by status.", labels=["status"])
        for status, count in health.statuses.items():
            family.add_metric([status], count)
        return family

    def _jobs(self, health: Health) -> Metric:
        family = GaugeMetricFamily("monitor_queue_jobs", "Jobs of RQ by queue and state.", labels=["queue", "state"])
        for name, seen in health.queues.items():
            for state, count in (("waiting", seen.waiting), ("running", seen.running), ("failed", seen.failed)):
                family.add_metric([name, state], count)
        return family

    def _workers(self, health: Health) -> Metric:
        family = GaugeMetricFamily("monitor_workers", "Workers alive by queue.", labels=["queue"])
        for name, seen in health.queues.items():
            family.add_metric([name], len(seen.workers))
        return family

    def _outbox(self, health: Health) -> Metric:
        family = GaugeMetricFamily(
            "monitor_outbox_alerts", "Alerts that people are owed, by channel and state.", labels=["channel", "state"]
        )
        for channel, counts in (("mail", health.outbox), ("notifications", health.notifications)):
            for state, count in (("waiting", counts.waiting), ("sending", counts.sending), ("dead", counts.dead)):
                family.add_metric([channel, state], count)
        return family

    def _delays(self) -> Metric:
        buckets, sum_ms = self._services.store.outbox.delays()
        return HistogramMetricFamily(
            "monitor_alert_delay_seconds",
            "From the end of the first check that saw a change to the server that took the alert.",
            buckets=[(bound, count) for bound, count in buckets],
            sum_value=sum_ms / 1000,
        )
