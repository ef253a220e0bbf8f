"""What people are shown of an answer: headers, certificate, redirects and the beginning of a body, without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from shared.check import Check
from shared.endpoint import MASK, redact, redact_header
from shared.monitor import AnswerSeen
from worker.probe.certificate import certificate_seen
from worker.probe.exchange import Exchange, header_fields
from worker.probe.redirects import absolute
from worker.probe.request import Outgoing
from worker.probe.secrecy import NO_SECRETS, Secrets
from worker.probe.text import cut, decode, mask, plain, plain_lines

MOST_HEADERS = 50
LONGEST_VALUE = 256
LONGEST_BODY = 2048

_LONGEST_PLACE = 120

_SUMMARY = re.compile(rb"^(?:content-type|server):[^\r\n]*", re.IGNORECASE | re.MULTILINE)
_ORDINARY = re.compile(
    rb"content-type: ?(?:text|application|image)/(?:css|html|javascript|json|plain|png|problem\+json|svg\+xml|xml)"
    rb"(?:; ?charset=\"?(?:utf-8|us-ascii|iso-8859-1)\"?)?"
    rb"|server: ?(?:apache|caddy|cloudflare|envoy|gunicorn|microsoft-iis|nginx|openresty|werkzeug)(?:/[0-9.]{1,9})?",
    re.IGNORECASE,
)
"""What no secret can be behind, whatever the check sends: most answers have nothing else."""


def summary(check: Check, exchange: Exchange, redirects: Sequence[str]) -> AnswerSeen:
    """What is kept of a good answer; made for every check, so it is quick."""
    wanted = _SUMMARY.findall(b"".join(exchange.header))[:MOST_HEADERS]
    is_ordinary = not redirects and all(map(_ORDINARY.fullmatch, wanted))
    secrets = NO_SECRETS if is_ordinary else Secrets.of(check)
    return AnswerSeen(
        redirects=_redirects(redirects, secrets) if redirects else (),
        certificate=certificate_seen(exchange.chain),
        headers=tuple(_hidden(line, secrets) for line in wanted) if secrets else tuple(map(_shown, wanted)),
        body_bytes=exchange.body_bytes,
    )


@lru_cache(maxsize=1024)
def _shown(line: bytes) -> tuple[str, str]:
    """A header as it is shown; most servers send the same few over and over."""
    return _hidden(line, NO_SECRETS)


def _hidden(line: bytes, secrets: Secrets) -> tuple[str, str]:
    ((name, value),) = header_fields((b"", line))
    value = secrets.hidden(redact_header(name, value))
    return cut(plain(name), LONGEST_VALUE), cut(plain(value), LONGEST_VALUE)


def evidence(check: Check, request: Outgoing | None, exchange: Exchange, redirects: Sequence[str]) -> AnswerSeen | None:
    """What is kept of an answer that failed; None when nothing was seen of one."""
    certificate = certificate_seen(exchange.chain)
    if not (exchange.header or redirects or certificate):
        return None
    secrets = Secrets.of(check)
    fields = list(header_fields(exchange.header))
    content_type = next((value for name, value in fields if name.lower() == "content-type"), "")
    is_cut = exchange.body_bytes > LONGEST_BODY or exchange.failure is not None
    body = plain_lines(decode(bytes(exchange.body[:LONGEST_BODY]), content_type))
    return AnswerSeen(
        redirects=_redirects(redirects, secrets),
        certificate=certificate,
        headers=tuple(_evident(name, value, request, secrets) for name, value in fields[:MOST_HEADERS]),
        body=cut(mask(secrets.hidden(body, is_cut=is_cut)), LONGEST_BODY) if exchange.body else None,
        body_bytes=exchange.body_bytes if exchange.header else None,
    )


def _redirects(urls: Sequence[str], secrets: Secrets) -> tuple[str, ...]:
    return tuple(secrets.hidden(redact(url)) for url in urls)


def _evident(name: str, value: str, request: Outgoing | None, secrets: Secrets) -> tuple[str, str]:
    if request is not None and name.lower() in ("location", "content-location"):
        value = shown_location(request, value) or MASK
    else:
        value = redact_header(name, value)
    if value != MASK:
        value = mask(secrets.hidden(value))
    return cut(secrets.hidden(plain(name)), LONGEST_VALUE), cut(plain(value), LONGEST_VALUE)


def shown_location(request: Outgoing, location: str) -> str | None:
    """The URL that a redirect leads to, redacted; None when it is none."""
    try:
        return plain(redact(absolute(request, location)))
    except ValueError:
        return None


def leads_to(check: Check, request: Outgoing, location: str) -> str | None:
    """Where a redirect leads that was not followed, for a sentence: without its query, which may be long."""
    shown = shown_location(request, location)
    if shown is None or not shown.startswith(("http://", "https://")):
        return None
    return cut(Secrets.of(check).hidden(shown.partition("?")[0].partition("#")[0]), _LONGEST_PLACE)


def concealer(check: Check) -> Callable[[str], str]:
    """What masks the secrets of a check in a text, before that is cut; they are gathered when it is first called."""
    gathered: list[Secrets] = []

    def conceal(text: str) -> str:
        if not gathered:
            gathered.append(Secrets.of(check))
        return gathered[0].hidden(text)

    return conceal


def without_secrets(check: Check, sentence: str) -> str:
    return Secrets.of(check).hidden(plain(sentence))
