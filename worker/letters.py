"""What a mail says: from alerts to stories, and from many stories to groups of one cause. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from urllib.parse import urlsplit

from shared.addresses import parse_address
from shared.monitor import Alert, Report
from worker.words import SUBJECT_LENGTH, code, counted, misses_code, plain, reason_words, shortened

LINES = 100
"""How many targets of each kind a mail names; the rest is a number."""
_ATTEMPTS = 20
_MANY = 3
"""How many targets of one domain make a group of their own."""


@dataclass(frozen=True, slots=True)
class Story:
    """What one mail says of one incident: that it began, that it is over, or both at once."""

    down: Alert | None = None
    up: Alert | None = None

    @property
    def alert(self) -> Alert:
        """The newest there is to tell."""
        newest = self.up or self.down
        assert newest is not None, "a story without an alert"
        return newest

    @property
    def name(self) -> str:
        return self.alert.title or self.alert.endpoint

    @property
    def began_at(self) -> int:
        return self.alert.began_at

    @property
    def lasted_ms(self) -> int:
        """How long it was down, or at least was so far."""
        return self.alert.at - self.alert.began_at


def cleaned(alert: Alert) -> Alert:
    """The alert with :func:`plain` and bounded texts: whoever made it, each is one line of the mail and no more."""
    attempts = tuple(
        {name: _line(value) if isinstance(value, str) else value for name, value in attempt.items()}
        for attempt in alert.attempts[:_ATTEMPTS]
    )
    return replace(
        alert,
        target_id=plain(alert.target_id),
        endpoint=shortened(plain(alert.endpoint), 2048),
        title=_line(alert.title),
        expected=alert.expected if isinstance(alert.expected, int) else _line(alert.expected) or "",
        sentence=_line(alert.sentence),
        reason=_line(alert.reason),
        incident=_line(alert.incident),
        address=_line(alert.address),
        bottleneck=_line(alert.bottleneck),
        attempts=attempts,
        phases={plain(name): ms for name, ms in alert.phases.items()},
    )


def _line(text: str | None) -> str | None:
    return shortened(plain(text), 300) or None if text else None


def stories(alerts: Iterable[Alert]) -> list[Story]:
    """One story an incident, oldest first. Alerts without an incident stand alone."""
    downs: dict[str, Alert] = {}
    ups: dict[str, Alert] = {}
    for number, alert in enumerate(map(cleaned, alerts)):
        incident = alert.incident or f"alone-{number}"
        (downs if alert.kind == "down" else ups)[incident] = alert
    told = [Story(downs.get(incident), ups.get(incident)) for incident in dict.fromkeys([*downs, *ups])]
    return sorted(told, key=lambda story: (story.began_at, story.name))


# --- many at once --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lines:
    """The first of many stories, and how many there are."""

    shown: Sequence[Story]
    count: int

    @property
    def more(self) -> int:
        return self.count - len(self.shown)

    @classmethod
    def of(cls, told: Sequence[Story]) -> Lines:
        return cls(told[:LINES], len(told))


@dataclass(frozen=True, slots=True)
class Group:
    """Targets that are down for one cause, and perhaps on one site."""

    cause: str
    site: str | None
    lines: Lines
    sentence: str | None
    """What all of them say; None where they differ and each line says its own."""

    @property
    def heading(self) -> str:
        return f"{self.cause} on {self.site}" if self.site else self.cause


@dataclass(frozen=True, slots=True)
class Downs:
    """All that is down, the largest group first."""

    groups: Sequence[Group]
    count: int

    @property
    def more(self) -> int:
        """How many no group has room for."""
        return self.count - sum(group.lines.count for group in self.groups)


@dataclass(frozen=True, slots=True)
class Digest:
    """Many alerts as one mail: what is down, what is up again, and what was down and is up again already."""

    downs: Downs
    ups: Lines
    over: Lines

    @property
    def headline(self) -> str:
        """``37 targets down, 2 up``."""
        return ", ".join(self._counts())

    @property
    def subject(self) -> str:
        """The headline, and the cause that most of the downs share where there is one and the room for it."""
        chief = self.downs.groups[0] if self.downs.groups else None
        if chief is None or chief.lines.count * 3 < self.downs.count * 2 or chief.lines.count < _MANY:
            return self.headline
        share = "all" if chief.lines.count == self.downs.count else f"{chief.lines.count:,} of them"
        first, *others = self._counts()
        for words in (chief.heading, chief.cause):
            told = f"{first} ({share} {words})" if others else f"{first}: {share} {words}"
            if len(subject := ", ".join([told, *others])) <= SUBJECT_LENGTH:
                return subject
        return self.headline

    def _counts(self) -> list[str]:
        counts = {"down": self.downs.count, "up": self.ups.count, "down and up again": self.over.count}
        told = [(count, words) for words, count in counts.items() if count]
        (count, words), *others = told
        return [f"{counted(count, 'target')} {words}", *(f"{count:,} {words}" for count, words in others)]


def digest(told: Sequence[Story]) -> Digest:
    return Digest(
        downs=grouped([story for story in told if story.up is None]),
        ups=Lines.of([story for story in told if story.down is None]),
        over=Lines.of([story for story in told if story.down and story.up]),
    )


def report_downs(report: Report) -> Downs:
    """What a report says is down: the alerts that it carries, grouped, and the number of all."""
    downs = grouped([Story(down=cleaned(alert)) for alert in report.down])
    return replace(downs, count=max(downs.count, report.down_in_all))


def report_headline(report: Report) -> str:
    """``3 of 120 targets are down``."""
    if not report.targets:
        return "no target is being watched"
    if not report.down_in_all:
        return f"none of {counted(report.targets, 'target')} is down"
    verb = "is" if report.down_in_all == 1 else "are"
    return f"{report.down_in_all:,} of {counted(report.targets, 'target')} {verb} down"


def grouped(told: Sequence[Story]) -> Downs:
    """Stories of targets that are down, by cause and then by site where many share one; 100 lines in all."""
    by_cause: defaultdict[str, list[Story]] = defaultdict(list)
    for story in told:
        by_cause[_cause_of_many(story.alert)].append(story)
    parts = [
        (shared_cause, site, members)
        for shared_cause, sharers in by_cause.items()
        for site, members in _by_site(sharers)
    ]
    parts.sort(key=lambda part: -len(part[2]))
    groups, room = [], LINES
    for shared_cause, site, members in parts:
        if not room:
            break
        sentences = {story.alert.sentence for story in members}
        sentence = sentences.pop() if len(sentences) == 1 and len(members) > 1 else None
        groups.append(Group(shared_cause, site, Lines(members[:room], len(members)), sentence))
        room -= min(room, len(members))
    return Downs(groups, len(told))


def _cause_of_many(alert: Alert) -> str:
    if misses_code(alert):
        return code(alert.got)
    return reason_words(alert.reason)


def _by_site(sharers: Sequence[Story]) -> list[tuple[str | None, list[Story]]]:
    """Each domain that many of them are on, under the longest name they share, and the rest under None."""
    by_domain: defaultdict[str, list[Story]] = defaultdict(list)
    for story in sharers:
        by_domain[_domain(_host(story.alert.endpoint))].append(story)
    crowds = [members for members in by_domain.values() if len(members) >= _MANY]
    rest = [story for members in by_domain.values() if len(members) < _MANY for story in members]
    sites: list[tuple[str | None, list[Story]]] = [(_shared_name(members), members) for members in crowds]
    return [*sites, (None, rest)] if rest else sites


def _host(endpoint: str) -> str:
    try:
        return urlsplit(endpoint).hostname or ""
    except ValueError:
        return ""


def _domain(host: str) -> str:
    """The part of a host name that one owner is likely to have; a guess without the public suffix list."""
    if parse_address(host) is not None:
        return host
    labels = host.split(".")
    is_under_country = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if is_under_country else -2 :])


def _shared_name(members: Sequence[Story]) -> str | None:
    """The one host of all members, or ``*.`` and the labels at the end that all their hosts share."""
    hosts = {_host(story.alert.endpoint) for story in members}
    if len(hosts) == 1:
        return hosts.pop() or None
    columns = zip(*(reversed(host.split(".")) for host in hosts), strict=False)
    shared = [labels[0] for labels in takewhile(lambda labels: len(set(labels)) == 1, columns)]
    return "*." + ".".join(reversed(shared))
