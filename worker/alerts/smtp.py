"""Flask-Mail's way to an SMTP server with its holes closed: deadlines, verified certificates, and honest outcomes.

What a mail says is not known here; ``worker.alerts.mailer`` makes it.
"""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import ssl
import time
from contextlib import suppress
from email.utils import parseaddr
from types import TracebackType
from typing import Any

import flask_mail
from flask import Flask

from shared.monitor import MonitorError
from worker.alerts.words import plain

TIMEOUT_SECONDS = 15.0
"""To connect, for the TLS handshake, and for each reply as a whole; Flask-Mail itself would wait for ever."""
_QUIT_SECONDS = 1.0
_REPLY_BYTES = 65_536
SENTENCE_LENGTH = 300

# 530, 534, 535 and 538 (RFC 4954) say that our login is wrong, not that the mail is.
_LOGIN_CODES = frozenset({530, 534, 535, 538})
# Mailtrap's "550 5.7.0 too many emails per second", and what others say when they mean "later".
_LATER = re.compile(
    r"too many|rate.?limit|throttl|try again|(?:^|\s)(?:4\.\d{1,3}\.\d{1,3}|5\.7\.0)(?:\s|$)", re.IGNORECASE
)


_THROTTLED = re.compile(r"too many|rate.?limit|throttl", re.IGNORECASE)
"""Of these, what is about all mails."""


class MailRefused(MonitorError):  # noqa: N818 - a fact about a mail, like smtplib's SMTPSenderRefused
    """A server said 5xx for good: the same mail is not worth another try."""


class MailDelayed(MonitorError):  # noqa: N818 - as above
    """The mail did not get through now and is worth another try later."""

    def __init__(self, sentence: str, *, may_have_arrived: bool = False, is_about_mail: bool = False) -> None:
        super().__init__(sentence)
        self.may_have_arrived = may_have_arrived
        """The whole message was handed over and no readable answer came: another try may be a duplicate."""
        self.is_about_mail = is_about_mail
        """The server was there and took others, perhaps: it is no reason for other mails to wait."""


class _Replies:
    """The lines a server sends, for ``smtplib.SMTP.file``; each reply as a whole has a deadline and a size."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._seconds = self._deadline = 0.0
        self._room = 0

    def expect(self, seconds: float) -> None:
        """Begin the next reply, which may take ``seconds`` from now to its last line."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._room = _REPLY_BYTES

    def readline(self, limit: int) -> bytes:
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no reply within {self._seconds:g} s")
            self._sock.settimeout(left)
            try:
                received = self._sock.recv(4096)
            except TimeoutError:
                continue
            if not received:
                break
            self._buffer += received
        end = min(self._buffer.find(b"\n") + 1 or len(self._buffer), limit)
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        self._room -= len(line)
        if self._room < 0:
            raise OSError("an endless reply")
        return line

    def close(self) -> None:
        """Nothing: the socket belongs to smtplib."""


class _Session(smtplib.SMTP):
    """smtplib with an end to each reply, and with a memory of whether the message is out.

    smtplib's timeout is for each read, so that a tarpit, which drips a byte now and then, would hold the job.
    """

    is_handed_over = False
    """The final dot is sent: from here on, silence does not mean that the mail did not arrive."""

    def getreply(self) -> tuple[int, bytes]:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("not connected")
        if self.file is None:
            self.file = _Replies(self.sock)
        self.file.expect(self.timeout)
        try:
            return super().getreply()
        finally:
            if self.sock is not None:
                self.sock.settimeout(self.timeout)

    def data(self, msg: Any) -> tuple[int, bytes]:
        """As smtplib's; written out because only between its two last lines can one know that the dot was sent."""
        answer = self.docmd("data")
        if answer[0] != 354:
            raise smtplib.SMTPDataError(*answer)
        lines = re.sub(rb"(?m)^\.", b"..", msg)
        self.send(lines + (b".\r\n" if lines.endswith(b"\r\n") else b"\r\n.\r\n"))
        self.is_handed_over = True
        return self.getreply()


class _TlsSession(_Session, smtplib.SMTP_SSL):
    """The same over TLS from the first byte."""


class Connection(flask_mail.Connection):
    """Flask-Mail's connection without its holes; each is named where it is closed.

    ``refused`` maps the recipients that the server refused in the latest mail to what it said.
    """

    mail: Mail
    host: _Session | None

    def __init__(self, mail: Mail) -> None:
        super().__init__(mail)
        self.refused: dict[str, str] = {}

    def configure_host(self) -> _Session:
        """Connect, encrypt and sign in. Whatever goes wrong here can be mended without touching the mail."""
        session: _Session | None = None
        try:
            session = self._connected()
            if self.mail.use_tls:
                # Flask-Mail calls starttls() without a context, which takes any certificate from anybody.
                session.starttls(context=ssl.create_default_context())
            if self.mail.username and self.mail.password:
                self._login(session, self.mail.username, self.mail.password)
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            self._close(session)
            raise MailDelayed(self._sentence(error)) from None
        except BaseException:
            # RQ's job timeout is raised from a signal, anywhere: it goes on, and the socket is closed.
            self._close(session)
            raise
        return session

    @staticmethod
    def _login(session: _Session, username: str, password: str) -> None:
        if not (username + password).isascii():
            # smtplib would raise a UnicodeEncodeError that spells a letter of the password.
            raise MailDelayed("MAIL_USERNAME and MAIL_PASSWORD can hold ASCII characters only")
        session.login(username, password)

    def _connected(self) -> _Session:
        # Flask-Mail passes no timeout, so that a silent server would hold the job for ever.
        address = (self.mail.server, self.mail.port or 0)
        if self.mail.use_ssl:
            # And no context, so that it would trust any certificate.
            return _TlsSession(*address, timeout=self.mail.timeout_seconds, context=ssl.create_default_context())
        return _Session(*address, timeout=self.mail.timeout_seconds)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        # Flask-Mail lets the errors of QUIT out: a server that hangs up after its 250 would get the mail again.
        # The answer to QUIT is not worth waiting for either, a job's deadline could strike meanwhile.
        if self.host is not None and (exc_value is None or isinstance(exc_value, MonitorError)):
            self.host.timeout = _QUIT_SECONDS
            with suppress(OSError, smtplib.SMTPException):
                self.host.quit()
        self._close(self.host)

    @staticmethod
    def _close(session: _Session | None) -> None:
        if session is not None:
            with suppress(OSError):
                session.close()

    def send(self, message: flask_mail.Message, envelope_from: str | tuple[str, str] | None = None) -> None:
        """Hand over one mail. Raises MailRefused or MailDelayed; after the server's 250 nothing is raised.

        Flask-Mail's own drops sendmail's list of refused recipients, sends to a set in no order, and calls the
        receivers of a signal, which may raise, while the server has the mail already.
        """
        assert self.host is not None, "send() belongs inside `with mail.connect()`"
        sender = parseaddr(flask_mail.sanitize_address(envelope_from or message.sender))[1]
        recipients = [parseaddr(address)[1] for address in flask_mail.sanitize_addresses(message.recipients)]
        try:
            refused = self.host.sendmail(sender, recipients, message.as_bytes())
        except (OSError, smtplib.SMTPException) as error:
            raise self._judged(error, self.host.is_handed_over) from None
        self.refused = {who: self._answer(*answer) for who, answer in refused.items()}

    def _judged(self, error: Exception, is_handed_over: bool) -> MonitorError:
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            answers = list(error.recipients.values())
        elif isinstance(error, smtplib.SMTPResponseException):
            answers = [(error.smtp_code, _as_bytes(error.smtp_error))]
        else:
            answers = []
        if answers and all(is_final(code, _as_text(text)) for code, text in answers):
            return MailRefused(self._sentence(error))
        is_answered = any(400 <= code <= 599 for code, _ in answers)
        is_throttled = any(_THROTTLED.search(_as_text(text)) or code == 421 for code, text in answers)
        return MailDelayed(
            self._sentence(error),
            may_have_arrived=is_handed_over and not is_answered,
            is_about_mail=not is_throttled,
        )

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            said = "; ".join(f"{self._answer(*answer)} ({who})" for who, answer in error.recipients.items())
        elif isinstance(error, smtplib.SMTPResponseException):
            said = self._answer(error.smtp_code, error.smtp_error)
        else:
            said = str(error) or type(error).__name__
        return plain(self.mail.redact(f"{self.mail.server}:{self.mail.port}: {said}"))[:SENTENCE_LENGTH]

    def _answer(self, code: int, text: bytes | str) -> str:
        """``550 5.1.1 no such user``; 000 stands for a reply that has no code."""
        return plain(self.mail.redact(f"{max(code, 0):03} {_as_text(text)}"))[:SENTENCE_LENGTH]


def _as_text(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def is_final(code: int, text: str) -> bool:
    """Whether the answer is about this mail and for good; everything else is worth another try."""
    return 500 <= code <= 599 and code not in _LOGIN_CODES and not _LATER.search(text)


class Mail(flask_mail.Mail):
    """Flask-Mail, handing out our connections."""

    def __init__(self, app: Flask, timeout_seconds: float) -> None:
        super().__init__(app)
        self.timeout_seconds = timeout_seconds

    def connect(self) -> Connection:
        return Connection(self)

    def redact(self, text: str) -> str:
        """``text`` without the password, also as a login sends it: some servers repeat what they do not understand."""
        if self.password:
            words = self.password, f"\0{self.username}\0{self.password}"
            for secret in (*(base64.b64encode(word.encode()).decode() for word in words), self.password):
                text = text.replace(secret, "***")
        return text
