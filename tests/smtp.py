"""Real SMTP servers on loopback for the tests of mails: aiosmtpd whose answers the test writes, and tarpits.

No test waits a fixed time; a tarpit is silent until the test lets go of it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Answer = str | Callable[[SMTP], Awaitable[str]]
"""What a server says to one command: a reply, or something to do with the connection first."""


async def hang_up(server: SMTP) -> str:
    """Cut the line without a word."""
    assert isinstance(server.transport, asyncio.Transport)
    server.transport.abort()
    return "250 nobody reads this"


async def take_and_hang_up(server: SMTP) -> str:
    """Say that the mail is taken, and cut the line before the client can say goodbye."""
    await server.push("250 taken")
    assert server.transport is not None
    server.transport.close()
    return "250 nobody reads this"


async def stay_silent(server: SMTP) -> str:
    """Never answer; the client gives up first."""
    await asyncio.Event().wait()
    return "250 nobody reads this"


@dataclass
class Mailbox:
    """A server's mind and what it was sent. An answer that is not given is 250.

    ``rcpt`` answers by recipient; ``port`` is where the server listens.
    """

    mail: Answer | None = None
    rcpt: Mapping[str, Answer] = field(default_factory=dict)
    data: Answer | None = None
    quit: Answer | None = None
    login: tuple[str, str] | None = None
    port: int = 0
    envelopes: list[Envelope] = field(default_factory=list)
    sign_ins: list[bool] = field(default_factory=list)
    quits: int = 0
    were_encrypted: list[bool] = field(default_factory=list)

    @property
    def messages(self) -> list[EmailMessage]:
        """What arrived, as a mail program reads it."""
        return [message_from_bytes(content, _class=EmailMessage, policy=policy.default) for content in self.contents]

    @property
    def contents(self) -> list[bytes]:
        """What arrived, byte by byte."""
        return [bytes(envelope.original_content or b"") for envelope in self.envelopes]

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = await _say(self.mail, server)
        if answer.startswith("250"):
            envelope.mail_from = address
        return answer

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = await _say(self.rcpt.get(address), server)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Called once the final dot is in: the mail has arrived whatever is answered now."""
        self.envelopes.append(envelope)
        assert server.transport is not None
        self.were_encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        return await _say(self.data, server)

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.quits += 1
        return await _say(self.quit, server)

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert self.login is not None
        assert isinstance(data, LoginPassword)
        is_right = (data.login.decode(), data.password.decode()) == self.login
        self.sign_ins.append(is_right)
        return AuthResult(success=is_right, handled=is_right)


async def _say(answer: Answer | None, server: SMTP) -> str:
    if answer is None:
        return "250 OK"
    return answer if isinstance(answer, str) else await answer(server)


class LocalController(Controller):
    """aiosmtpd's controller on a port that the kernel chooses."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def smtp_server(
    mailbox: Mailbox, *, starttls: ssl.SSLContext | None = None, smtps: ssl.SSLContext | None = None, **options: Any
) -> Iterator[Mailbox]:
    """Serve ``mailbox``; ``options`` go to :class:`aiosmtpd.smtp.SMTP`. STARTTLS is required where it is offered."""
    if starttls is not None:
        options |= {"tls_context": starttls, "require_starttls": True}
    if mailbox.login is not None:
        options |= {"authenticator": mailbox.authenticate, "auth_required": True}
    controller = LocalController(mailbox, hostname="127.0.0.1", port=0, ssl_context=smtps, **options)
    controller.start()
    mailbox.port = controller.port
    try:
        yield mailbox
    finally:
        controller.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def dripping_server(drop: bytes) -> Iterator[int]:
    """The port of a tarpit: ``drop`` again and again, each well within a client's patience, and never a whole reply."""
    over = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                while not over.wait(0.01):
                    connection.sendall(drop)
            except OSError:
                return  # The client has had enough, which is what the test is about.

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()
