"""What is worth a sentence above the table of targets, or on the page of one: a status alone does not say it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flask import url_for

from api.pages.words import ago, clock, seconds_words
from api.services import services
from shared.health import Health
from shared.maintenance import Maintenance, next_occurrence
from shared.monitor import Alert
from shared.state import Status
from shared.store import Watched

_SHOWN_OVERDUE = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should know, and where they can do something about it."""

    text: str
    links: tuple[tuple[str, str], ...] = ()
    """Each what it says, and where it leads."""
    kind: Literal["bad", "warning", "plain"] = "warning"


def troubles() -> list[Alert]:
    """What people were told of the monitor itself and is not over, the longest first."""
    return sorted(services().store.troubles.all().values(), key=lambda trouble: trouble.began_at)


def attention(health: Health, now: int) -> Iterator[Notice]:
    """What is wrong though the page is there; at most three further questions to Redis. Raises redis.RedisError."""
    for trouble in troubles():
        if trouble.title not in health.missing and trouble.sentence not in health.missing:
            yield Notice(f"{trouble.title} since {ago(now - trouble.began_at)}: {trouble.sentence}", kind="bad")
    for warning in health.warnings:
        links: tuple[tuple[str, str], ...] = ()
        if "given up" in warning:
            links = (("look, or send them again", url_for("outbox_page")),)
        elif "overdue" in warning:
            late = services().store.targets.overdue(now=now, limit=_SHOWN_OVERDUE)
            links = tuple((each.target.name, url_for("target_page", id=each.target.id)) for each, _ in late)
        yield Notice(warning, links)


def is_late(watched: Watched, now: int) -> bool:
    """Whether the newest result is older than it may be, so that nothing here may look green."""
    check, settings = watched.target.check, services().settings
    if check.paused:
        return False
    # One that was resumed has an old result, and is new all the same.
    newest = max(watched.latest["finished_at"] if watched.latest else 0, watched.state.since)
    return bool(now > newest + 1000 * (2 * settings.interval(check) + settings.longest_check(check)))


def notices(
    watched: Watched, window: Maintenance | None, parent: Watched | None, *, is_stale: bool, now: int
) -> Iterator[Notice]:
    """What the status alone does not say."""
    state, interval = watched.state, services().settings.interval(watched.target.check)
    for trouble in troubles():
        link = (("the monitor", url_for("page")),)
        yield Notice(f"The monitor itself: {trouble.title} since {ago(now - trouble.began_at)}", link, "bad")
    if is_stale:
        yield Notice(f"No result is as new as it should be: one is due every {seconds_words(interval)}", kind="bad")
    if state.incident:
        since = "An incident is open" + (f" since {clock(state.down_at)}" if state.down_at else "")
        yield Notice(since, (("what happened, and who was told", url_for("incident_page", id=state.incident)),), "bad")
    if doubt := doubt_of(watched):
        yield Notice(doubt)
    if state.is_flapping:
        calm = seconds_words(services().settings.flap_window)
        yield Notice(f"It goes up and down; mails of that are held back until it has been calm for {calm}")
    if parent is not None and parent.state.status is Status.DOWN:
        link = ((parent.target.name, url_for("target_page", id=parent.target.id)),)
        yield Notice("What it depends on is down, and nobody is told of this one meanwhile", link)
    if window is not None:
        until = next_occurrence(window, now)
        words = f"Maintenance “{window.title}”" + (f" until {clock(until.ends_at)}" if until else "")
        yield Notice(f"{words}: nobody is alarmed, and no uptime counts", kind="plain")
    if watched.target.check.paused:
        yield Notice("It is paused: nobody checks it until it is resumed", kind="plain")


def doubt_of(watched: Watched) -> str:
    """What was seen and is not believed yet, in either direction; empty where there is nothing."""
    state, policy = watched.state, services().settings.policy(watched.target.check)
    if state.is_in_doubt and state.status is not Status.PAUSED:
        counted = f"{state.failures} failed {'check' if state.failures == 1 else 'checks in a row'}"
        if policy.wants_opinion(state):
            return f"{counted}; a second opinion is on its way"
        return f"{counted}; {policy.failures_needed} in a row make it down"
    if state.status is Status.DOWN and state.successes:
        counted = f"{state.successes} good {'check' if state.successes == 1 else 'checks in a row'}"
        return f"{counted}; {policy.success_threshold} in a row make it up again"
    return ""
