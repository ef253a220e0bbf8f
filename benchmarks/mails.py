"""Servers for the mails of what is measured: one that takes them all and remembers them, and one that says nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.smtp import LocalController


@dataclass(frozen=True, slots=True)
class Taken:
    """One mail, and when the server said 250 to it (seconds since the epoch)."""

    at: float
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def id(self) -> str:
        return str(self.message["Message-ID"])

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def incident(self) -> str | None:
        """The one incident that the mail is about; None where it is about several, or about the monitor."""
        thread = self.message["References"]
        return str(thread).strip("<>").rpartition("@")[0] if thread else None


@dataclass
class MailServer:
    """What a server took. ``delay_seconds`` go by between a sender and its 250, long before the mail is there."""

    delay_seconds: float = 0.0
    port: int = 0
    mails: list[Taken] = field(default_factory=list)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        await asyncio.sleep(self.delay_seconds)
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        message = message_from_bytes(
            bytes(envelope.original_content or b""), _class=EmailMessage, policy=policy.default
        )
        self.mails.append(Taken(time.time(), tuple(envelope.rcpt_tos), message))
        return "250 OK"


@contextmanager
def mail_server(delay_seconds: float = 0.0) -> Iterator[MailServer]:
    """A server that takes every mail."""
    server = MailServer(delay_seconds)
    controller = LocalController(server, hostname="127.0.0.1", port=0)
    controller.start()
    server.port = controller.port
    try:
        yield server
    finally:
        controller.stop()


@contextmanager
def tarpit() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]
