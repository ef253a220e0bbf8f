"""Mails, rendered and sent with Flask-Mail on a bare Flask app: every failure is raised, none is swallowed.

The words are made in ``worker.alerts.letters`` and in ``templates/email/<kind>``; who gets a mail, and when it is tried
again, is decided by the jobs.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, parseaddr
from functools import partial
from pathlib import Path
from typing import Any

import flask_mail
from flask import Flask

from shared import links
from shared.monitor import Alert, Report
from shared.settings import Settings, SettingsError
from worker.alerts import letters
from worker.alerts.letters import Story
from worker.alerts.rendering import rendered
from worker.alerts.smtp import SENTENCE_LENGTH, TIMEOUT_SECONDS, Mail, MailDelayed, MailRefused, is_final
from worker.alerts.words import plain

__all__ = ["MailDelayed", "MailRefused", "Mailer", "Sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A mail that a server took, or that lies in the mail folder.

    ``refused`` maps each recipient that the server refused while it took the mail for the others to what it said,
    ``550 no such user``.
    """

    recipients: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    is_final: Callable[[int, str], bool] = field(default=is_final, repr=False, compare=False)
    """How the codes are read: SMTP's 404 and HTTP's have little in common."""

    @property
    def delayed(self) -> tuple[str, ...]:
        """Those refused for now only: worth another mail, with ``recipients=``, under the same id."""
        return tuple(who for who, answer in self.refused.items() if not self.is_final(int(answer[:3]), answer))


class _Policy(EmailPolicy):
    """SMTP's lines in 7 bits. Python 3.11 would wrap a long id as an encoded word, and no client threads those."""

    def fold_binary(self, name: str, value: str) -> bytes:
        if name in ("Message-ID", "References", "In-Reply-To"):
            return f"{name}: {value}\r\n".encode("ascii")
        return super().fold_binary(name, value)


_POLICY = _Policy(linesep="\r\n", cte_type="7bit", utf8=False)


class _Message(flask_mail.Message):
    """Flask-Mail's message, written out by the modern half of :mod:`email`.

    Flask-Mail's own wraps the two texts into a needless multipart/mixed, shuffles the recipients through a set, and
    makes real line ends of \\x0b, \\x0c and \\x1c to \\x1e in a subject.
    """

    def as_bytes(self) -> bytes:
        letter = EmailMessage(policy=_POLICY)
        headers = {
            "From": str(self.sender),
            "To": ", ".join(map(str, self.recipients)) or "undisclosed-recipients:;",
            "Subject": self.subject,
            "Date": format_datetime(datetime.fromtimestamp(int(self.date or 0), UTC)),
            "Message-ID": self.msgId,
            **(self.extra_headers or {}),
        }
        for name, value in headers.items():
            # The API refuses control characters. Here they are gone whoever built the alert.
            letter[name] = plain(value)
        letter.set_content(self.body)
        letter.add_alternative(self.html, subtype="html")
        return letter.as_bytes()


class Mailer:
    """Renders and sends the mails of one process; nothing is connected before the first mail."""

    def __init__(
        self,
        settings: Settings,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        link_secret: bytes | str | None = None,
    ) -> None:
        """With a PUBLIC_URL mails have links, and with ``link_secret`` also those that act by themselves."""
        self._settings = settings
        self._link_secret = link_secret
        self._mail = Mail(_bare_app(settings), timeout_seconds)
        self._sender = _sender(settings)
        self._domain = parseaddr(self._sender)[1].rpartition("@")[2]

    @property
    def channels(self) -> Sequence[str]:
        """The recipients of the settings."""
        return self._settings.mail_recipients

    def send_alerts(self, mail_id: str, alerts: Sequence[Alert], *, recipients: Sequence[str] | None = None) -> Sent:
        """Send one mail that tells all of ``alerts``. ``recipients`` are those of the settings unless given.

        The same ``mail_id`` makes the same Message-ID. Raises MailRefused or MailDelayed.
        """
        told = letters.stories(alerts, window_ms=self._settings.flap_window * 1000)
        if not told:
            raise ValueError("a mail needs an alert to tell")
        threads = {letters.thread_of(alert) for alert in alerts}
        thread = threads.pop() if len(threads) == 1 else None
        if len(told) > 1:
            return self._send(mail_id, "digest", {"digest": letters.digest(told)}, recipients, thread)
        (story,) = told
        kind = "monitor" if story.is_about_monitor else "alert"
        return self._send(
            mail_id, kind, {"story": story, "acknowledge": self._acknowledge_url(story)}, recipients, thread
        )

    def send_report(self, mail_id: str, report: Report, *, recipients: Sequence[str] | None = None) -> Sent:
        """Send the present state, as :meth:`send_alerts` does."""
        told = {"report": report, "headline": letters.report_headline(report), "downs": letters.report_downs(report)}
        return self._send(mail_id, "report", told, recipients, None)

    def _acknowledge_url(self, story: Story) -> str | None:
        url, secret, incident = self._settings.public_url, self._link_secret, story.alert.incident
        if not (url and secret and incident and story.can_be_acknowledged):
            return None
        return links.acknowledge_url(url, secret, incident, now=int(time.time() * 1000))

    def _places(self) -> dict[str, Any]:
        """Where a mail leads, for its templates; all None without a PUBLIC_URL.

        ``home`` and ``incidents`` are URLs, ``page`` makes the URL of a target's page from its id.
        """
        url = self._settings.public_url
        if url is None:
            return {"home": None, "incidents": None, "page": None}
        return {"home": url, "incidents": links.incidents_url(url), "page": partial(links.target_url, url)}

    def _send(
        self, mail_id: str, kind: str, told: Mapping[str, Any], to: Sequence[str] | None, thread: str | None
    ) -> Sent:
        recipients, misspelt = _addresses(self._settings.mail_recipients if to is None else to)
        message = self._message(mail_id, kind, {**self._places(), **told}, list(recipients.values()), thread)
        if self._settings.mail_server is None:
            self._write(mail_id, message.as_bytes())
            return Sent(tuple(recipients), misspelt)
        if not recipients:
            raise MailRefused("; ".join(misspelt.values()) or "no MAIL_RECIPIENTS are configured")
        with self._mail.connect() as connection:
            connection.send(message)
        answers = {
            name: connection.refused[envelope]
            for name, address in recipients.items()
            if (envelope := parseaddr(address)[1]) in connection.refused
        }
        return Sent(tuple(name for name in recipients if name not in answers), {**answers, **misspelt})

    def _message(
        self, mail_id: str, kind: str, told: Mapping[str, Any], to: Sequence[str], thread: str | None
    ) -> _Message:
        headers = {
            "List-Id": f"http-monitoring <http-monitoring.{self._domain}>",
            # RFC 3834, and Exchange's own word for it: no out-of-office note answers an alert. A "Precedence: bulk"
            # would say the same and sort alerts among the newsletters.
            "Auto-Submitted": "auto-generated",
            "X-Auto-Response-Suppress": "All",
        }
        if thread is not None:
            # All mails of an incident answer the incident itself, so that clients thread them in any order.
            headers["References"] = headers["In-Reply-To"] = f"<{_token(thread)}@{self._domain}>"
        message = _Message(
            subject=rendered(f"email/{kind}/subject.txt", told),
            body=rendered(f"email/{kind}/body.txt", told),
            html=rendered(f"email/{kind}/body.html", told),
            recipients=list(to),
            sender=self._sender,
            date=time.time(),
            extra_headers=headers,
        )
        message.msgId = f"<{_token(mail_id)}@{self._domain}>"
        return message

    def _write(self, mail_id: str, content: bytes) -> None:
        """Put the mail into the mail folder, whole or not at all; the same id writes the same file."""
        folder = self._settings.mail_folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(folder / f"{_token(mail_id)}.eml", content)
        except OSError as error:
            raise MailDelayed(plain(f"{folder}: {error.strerror or error}")[:SENTENCE_LENGTH]) from None


def _bare_app(settings: Settings) -> Flask:
    """A Flask app without routes: the MAIL_* configuration, which is all that Flask-Mail asks for."""
    app = Flask(__name__, static_folder=None)
    password = settings.mail_password.get_secret_value() if settings.mail_password else None
    app.config.update(
        MAIL_SERVER=settings.mail_server,
        MAIL_PORT=settings.mail_port,
        MAIL_USERNAME=settings.mail_username,
        MAIL_PASSWORD=password,
        MAIL_USE_TLS=settings.mail_use_tls,
        MAIL_USE_SSL=settings.mail_use_ssl,
        MAIL_SUPPRESS_SEND=False,
        # Flask-Mail follows FLASK_DEBUG otherwise, and smtplib then prints the login to the log.
        MAIL_DEBUG=False,
    )
    return app


def _sender(settings: Settings) -> str:
    if settings.mail_default_sender is not None:
        address = _address(settings.mail_default_sender)
        if address is None:
            raise SettingsError(f"MAIL_DEFAULT_SENDER: must be a mail address (it is {settings.mail_default_sender!r})")
        return address
    if settings.mail_username and (address := _address(settings.mail_username)):
        return address
    # Only now, because it may ask DNS.
    return _address(f"http-monitoring@{socket.getfqdn()}") or "http-monitoring@localhost"


def _addresses(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Each recipient as headers and servers want it, and those that are no address with the reason.

    One misspelt recipient must not keep the mail from the others.
    """
    good, bad = {}, {}
    for name in names:
        address = _address(name)
        if address is None:
            bad[name] = f"501 {plain(name)[:100]} is not a mail address"
        else:
            good[name] = address
    return good, bad


def _address(name: str) -> str | None:
    """A mail address in ASCII, the display name encoded and the domain as punycode; None if it is none."""
    try:
        address = flask_mail.sanitize_address(plain(name))
    except UnicodeError:
        return None
    local, at, domain = parseaddr(address)[1].rpartition("@")
    is_plain = (local + domain).isascii() and not re.search(r"[\s<>,;\"()\\]", local + domain)
    return address if at and local and domain and is_plain else None


def _token(text: str) -> str:
    """An id as a file's name and as the left side of a Message-ID may hold it."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)[:200]


def _replace(path: Path, content: bytes) -> None:
    """Write the file, readable by its owner only, so that after a crash there is the old one or the new one whole."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")  # its mode is 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
