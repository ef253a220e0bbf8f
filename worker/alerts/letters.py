"""What a mail says: from alerts to stories, and from many stories to groups of one cause. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal
from urllib.parse import urlsplit

from shared.addresses import parse_address
from shared.monitor import Alert, AlertKind, Report
from worker.alerts import words
from worker.alerts.words import (
    SUBJECT_LENGTH,
    briefly,
    clock,
    code,
    counted,
    duration,
    misses_code,
    moment,
    plain,
    shortened,
)

LINES = 100
"""How many targets of each kind a mail names; the rest is a number."""
_ATTEMPTS = 20
_MANY = 3
"""How many targets of one domain make a group of their own."""


StoryKind = AlertKind | Literal["over"]
"""What a mail tells of one incident: an alert's kind, or ``over`` where it began and ended in the same mail."""


@dataclass(frozen=True, slots=True)
class Telling:
    """How one kind of story is announced."""

    verdict: str
    """Above the name of the target."""
    heading: str
    """Above the lines of a digest."""
    counted: str
    """After a number of targets, ..."""
    counted_shortly: str
    """... and where there is little room."""
    tone: Literal["down", "up", "unsteady", "monitor"]
    """The colour of the mail."""


TELLINGS: dict[StoryKind, Telling] = {
    "trouble": Telling("The monitor itself", "The monitor itself", "", "", "monitor"),
    "down": Telling("Down", "Down", "down", "down", "down"),
    "flapping": Telling("Flapping", "Going up and down", "flapping", "flapping", "unsteady"),
    "reminder": Telling("Still down", "Still down", "still down", "still down", "down"),
    "calm": Telling("Calm again", "Calm again", "calm again", "calm", "up"),
    "over": Telling("Up again", "Was down and is up again", "down and up again", "up again", "unsteady"),
    "up": Telling("Up again", "Up again", "up", "up", "up"),
    "well": Telling("The monitor is well", "The monitor is well again", "", "", "up"),
}
"""Every kind of story, the most severe first."""
_ABOUT_THE_MONITOR = ("trouble", "well")
_CAN_BE_ACKNOWLEDGED = ("down", "flapping", "reminder")


@dataclass(frozen=True, slots=True)
class Story:
    """What one mail says of one incident."""

    kind: StoryKind
    alert: Alert
    """The newest there is to tell."""
    before: Alert | None = None
    """What the same mail carries of its beginning."""
    window_ms: int | None = None
    """The time in which the changes of what is flapping were counted."""

    @property
    def name(self) -> str:
        return self.alert.title or self.alert.endpoint or "the monitor"

    @property
    def began_at(self) -> int:
        return (self.before or self.alert).began_at

    @property
    def ended_at(self) -> int:
        """When it was over: the end of the first good check; of what is not over, when that was last seen."""
        is_up_again = self.kind in ("up", "over")
        return (is_up_again and self.alert.detected_at) or self.alert.at

    @property
    def lasted_ms(self) -> int:
        """How long it was down, or at least was so far."""
        return self.ended_at - self.began_at

    @property
    def evidence(self) -> Alert:
        """The alert whose check is shown: what was wrong, where there is a choice."""
        return self.before if self.kind == "over" and self.before else self.alert

    @property
    def is_about_monitor(self) -> bool:
        return self.kind in _ABOUT_THE_MONITOR

    @property
    def can_be_acknowledged(self) -> bool:
        return self.kind in _CAN_BE_ACKNOWLEDGED and self.alert.incident is not None

    @property
    def verdict(self) -> str:
        return TELLINGS[self.kind].verdict

    @property
    def tone(self) -> str:
        return "down" if self.kind == "calm" and self.alert.is_up is False else TELLINGS[self.kind].tone

    @property
    def now(self) -> str:
        """``up`` or ``down``; empty where the alert does not say."""
        return {True: "up", False: "down", None: ""}[self.alert.is_up]

    @property
    def deed(self) -> str:
        """What the target does, to be said after its name: ``is still down (6 h)``."""
        match self.kind:
            case "flapping":
                changes = words.changes(self.alert.flips, self.window_ms)
                return "keeps going up and down" + (f" ({changes})" if changes else "")
            case "calm":
                return "is calm again" + (f": {self.now}" if self.now else "")
            case "reminder":
                return f"is still down ({briefly(self.lasted_ms)})"
            case "over":
                return f"was down for {duration(self.lasted_ms)} and is up again"
            case "up":
                return f"is up again after {duration(self.lasted_ms)}"
            case _:
                return "is down"

    @property
    def subject(self) -> str:
        """The whole story within 60 characters; the name is cut, what happened to it is not."""
        alert, lasted = self.alert, briefly(self.lasted_ms)
        match self.kind:
            case "trouble":
                return words.framed(self.name, "MONITOR TROUBLE: ")
            case "well":
                return words.framed(self.name, 'MONITOR WELL: "', '" is over')
            case "flapping":
                changes = words.changes(alert.flips, self.window_ms)
                after = f" ({changes})" if changes else ""
                afters = (f" ({changes}, now {self.now})", after) if changes and self.now else (after,)
                return words.fitted(self.name, "FLAPPING: ", *afters)
            case "calm":
                return words.framed(self.name, "CALM again: ", f" ({self.now})" if self.now else "")
            case "reminder":
                return words.fitted(self.name, "STILL DOWN: ", f" ({lasted}; {words.cause(alert)})", f" ({lasted})")
            case "over":
                return words.framed(self.name, "UP again: ", f" (was down for {lasted})")
            case "up":
                return words.framed(self.name, "UP: ", f" after {lasted}")
            case _:
                return words.framed(self.name, "DOWN: ", f" ({words.cause(alert)})")

    @property
    def note(self) -> str:
        """What a line of a digest says under the name."""
        since = f"since {clock(self.ended_at)}"
        match self.kind:
            case "trouble":
                return f"since {clock(self.began_at)}"
            case "well":
                return f"over {since}"
            case "flapping":
                parts = (words.changes(self.alert.flips, self.window_ms), self.now and f"now {self.now}")
                return ", ".join(filter(None, parts)) or f"since {clock(self.began_at)}"
            case "calm":
                before = "was going up and down, now " if self.before else ""
                return f"{before}{self.now or 'calm'} as of {clock(self.alert.at)}"
            case "reminder":
                cause = "" if self.alert.sentence else f" ({words.cause(self.alert)})"
                return f"since {clock(self.began_at)}, {briefly(self.lasted_ms)}{cause}"
            case "over":
                return f"{self.deed} ({words.cause(self.evidence)}), {since}"
            case _:
                return f"after {duration(self.lasted_ms)}, {since}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """The details of a mail about this story alone, as labels (of 10 letters at most) and values."""
        alert, began_at = self.alert, self.began_at
        if self.is_about_monitor:
            rows = [("Since", clock(began_at))]
            if self.kind == "well":
                rows.append(("Over", f"{clock(alert.at)}, after {duration(self.lasted_ms)}"))
        elif self.kind in ("flapping", "calm"):
            rows = [("As of", clock(alert.at)), ("Began", clock(began_at))]
            if self.now:
                rows[0] = ("Now", f"{self.now}, as of {clock(alert.at)}")
        else:
            rows = [("Down since", clock(began_at))]
        if self.kind in ("up", "over"):
            rows.append(("Up again", clock(self.ended_at) + _confirmed(alert, self.ended_at)))
        elif self.kind == "down":
            noticed_at = alert.detected_at or alert.at
            rows.append(("Noticed", moment(noticed_at, began_at) + _confirmed(alert, noticed_at)))
        elif self.kind == "reminder":
            rows.append(("As of", moment(alert.at, began_at)))
        if alert.written_at is not None:
            rows.append(("Queued", moment(alert.written_at, began_at)))
        if not self.is_about_monitor and self._shows_check:
            got = words.got(alert)
            if self.kind == "over":
                got = f"{words.got(self.evidence)}, then {got}"
            rows += [("Expected", code(alert.expected)), ("Got", got), ("Address", self.evidence.address or "")]
        return [(label, value) for label, value in rows if value]

    @property
    def _shows_check(self) -> bool:
        """Whether there is a check to speak of: a reminder comes without one where none was made meanwhile."""
        is_of_check = self.kind in ("down", "up", "over")
        return is_of_check or bool(self.alert.attempts or self.alert.reason or self.alert.got is not None)


def _confirmed(alert: Alert, seen_at: int) -> str:
    return f", confirmed {moment(alert.at, seen_at)}" if alert.at - seen_at >= 1000 else ""


def cleaned(alert: Alert) -> Alert:
    """The alert with :func:`plain` and bounded texts: whoever made it, each is one line of the mail and no more."""
    attempts = tuple(map(_lines_of, alert.attempts[:_ATTEMPTS]))
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
        opinion=_lines_of(alert.opinion) if alert.opinion else None,
        by=_line(alert.by),
        phases={plain(name): ms for name, ms in alert.phases.items()},
    )


def _line(text: str | None) -> str | None:
    return shortened(plain(text), 300) or None if text else None


def _lines_of(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _line(value) if isinstance(value, str) else value for name, value in document.items()}


def stories(alerts: Iterable[Alert], *, window_ms: int | None = None) -> list[Story]:
    """One story an incident, oldest first. Alerts without an incident stand alone."""
    by_incident: defaultdict[str, list[Alert]] = defaultdict(list)
    for number, alert in enumerate(map(cleaned, alerts)):
        by_incident[thread_of(alert) or f"alone-{number}"].append(alert)
    told = [replace(_story(told_of), window_ms=window_ms) for told_of in by_incident.values()]
    return sorted(told, key=lambda story: (story.began_at, story.name))


def thread_of(alert: Alert) -> str | None:
    """What the mails about one thing have in common: the incident, or the title of a trouble of the monitor's own."""
    if alert.incident is None and alert.kind in _ABOUT_THE_MONITOR and alert.title:
        return f"monitor-{alert.title}"
    return alert.incident


def _story(alerts: Sequence[Alert]) -> Story:
    """All that is to be told of one incident, as the one story that it has become."""
    newest = {alert.kind: alert for alert in sorted(alerts, key=lambda alert: alert.at)}
    down, up, flapping, calm = (newest.get(kind) for kind in ("down", "up", "flapping", "calm"))
    trouble, well = newest.get("trouble"), newest.get("well")
    if trouble and not (well and well.at >= trouble.at):
        return Story("trouble", trouble)
    if well:
        return Story("well", well, trouble)
    if flapping and not (calm and calm.at >= flapping.at):
        return Story("flapping", flapping)
    if calm and not (up and up.at > calm.at):
        return Story("calm", calm, flapping)
    if up:
        return Story("over", up, down) if down else Story("up", up)
    if down is None and (reminder := newest.get("reminder")):
        return Story("reminder", reminder)
    return Story("down", down or alerts[-1])


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
class Section:
    """The stories of one kind in a digest; those of targets that are down are grouped in :class:`Downs`."""

    kind: StoryKind
    lines: Lines

    @property
    def heading(self) -> str:
        return TELLINGS[self.kind].heading

    def counted(self, *, noun: bool = False, is_short: bool = False) -> str:
        """``2 up``, or with the noun ``2 targets up``."""
        count = self.lines.count
        if self.kind == "trouble":
            name = "trouble" if is_short else "monitor trouble"
            return name if count == 1 else counted(count, name)
        if self.kind == "well":
            return "monitor well" if count == 1 else f"{counted(count, 'monitor trouble')} over"
        telling = TELLINGS[self.kind]
        what = telling.counted_shortly if is_short else telling.counted
        return f"{counted(count, 'target')} {what}" if noun else f"{count:,} {what}"


@dataclass(frozen=True, slots=True)
class Digest:
    """Many alerts as one mail, by kind and the most severe kind first."""

    sections: Sequence[Section]
    downs: Downs

    @property
    def chief(self) -> Telling:
        """The telling of the most severe kind."""
        return TELLINGS[self.sections[0].kind]

    @property
    def headline(self) -> str:
        """``37 targets down, 2 up``."""
        return ", ".join(self._counts())

    @property
    def subject(self) -> str:
        """The headline within 60 characters.

        With the cause that most of the downs share where there is one and the room for it. Without the nouns, and
        then without the kinds that matter least, where there is not even room for the headline.
        """
        counts = self._counts()
        for telling in (*self._with_cause(counts), self.headline):
            if len(telling) <= SUBJECT_LENGTH:
                return telling
        counts = [section.counted(is_short=True) for section in self.sections]
        if len(telling := ", ".join(counts)) <= SUBJECT_LENGTH:
            return telling
        while len(telling := ", ".join([*counts, "…"])) > SUBJECT_LENGTH:
            counts.pop()
        return telling

    def _with_cause(self, counts: Sequence[str]) -> Iterator[str]:
        chief = self.downs.groups[0] if self.downs.groups else None
        if chief is None or chief.lines.count * 3 < self.downs.count * 2 or chief.lines.count < _MANY:
            return
        share = "all" if chief.lines.count == self.downs.count else f"{chief.lines.count:,} of them"
        place = [section.kind for section in self.sections].index("down")
        for cause in (chief.heading, chief.cause):
            told = f"{counts[place]} ({share} {cause})" if len(counts) > 1 else f"{counts[place]}: {share} {cause}"
            yield ", ".join([*counts[:place], told, *counts[place + 1 :]])

    def _counts(self) -> list[str]:
        of_targets = [section.kind for section in self.sections if section.kind not in _ABOUT_THE_MONITOR]
        return [section.counted(noun=section.kind in of_targets[:1]) for section in self.sections]


def digest(told: Sequence[Story]) -> Digest:
    by_kind = {kind: [story for story in told if story.kind == kind] for kind in TELLINGS}
    return Digest(
        sections=[Section(kind, Lines.of(members)) for kind, members in by_kind.items() if members],
        downs=grouped(by_kind["down"]),
    )


def report_downs(report: Report) -> Downs:
    """What a report says is down: the alerts that it carries, grouped, and the number of all."""
    downs = grouped([Story("down", cleaned(alert)) for alert in report.down])
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
    return words.reason_words(alert.reason)


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
