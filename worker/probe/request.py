"""What is sent, prepared by requests, and where it goes. Nothing here touches the network."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from typing import Any, Self
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct
from requests import PreparedRequest, Request
from requests.auth import HTTPBasicAuth
from requests.structures import CaseInsensitiveDict

from shared.addresses import parse_address
from shared.check import BasicAuth, BearerAuth, Body, Check, FormBody, JsonBody, TextBody

DEFAULT_PORTS = {"http": 80, "https": 443}

_LAST_PORT = 65_535

_HEADERS = {"User-Agent": "http-monitoring/1.0", "Accept": "*/*"}

_WITH_BODY = ("POST", "PUT", "PATCH")

_LOOKS_NUMERIC = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)\.?")

_AS_IT_IS = re.compile(
    r"(https?)://"
    r"((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,2}(?:\.[0-9]{1,3}){3})"
    r"(?::([1-9][0-9]{0,4}))?"
    r"((?:/(?![.])[\w.~!$&'()*+,;=:@-]*)+(?:\?[\w.~!$&'()*+,;=:@/-]+)?)?",
    re.ASCII,
)
"""Scheme, host, port and path of a URL that requests would send as it stands; most are like this."""

Line = str | bytes
"""A header's whole line; bytes, UTF-8, where it is not ASCII: pycurl takes no other text."""


def header_lines(headers: Iterable[tuple[str, str]]) -> list[Line]:
    return [_line(name, value) for name, value in headers]


def _line(name: str, value: str) -> Line:
    line = f"{name}: {value}" if value else f"{name};"  # In libcurl's words: a header without a value.
    return line if line.isascii() else line.encode()


PLAIN_LINES = header_lines(_HEADERS.items())


class Outgoing(Struct, frozen=True):
    """One request ready for libcurl. The user name and password of the URL are in ``headers`` and no longer in ``url``.

    ``headers`` are whole lines; one list is shared by all requests that send nothing special.
    """

    url: str
    headers: list[Line]
    scheme: str
    host: str
    port: int
    is_literal: bool
    """Whether the host is an address already, so that there is nothing to resolve."""
    method: str = "GET"
    body: bytes | None = None
    """None where the method sends none; ``b""`` is an empty one, whose length is told."""

    @property
    def is_https(self) -> bool:
        return self.scheme == "https"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who may see the credentials, RFC 6454."""
        return self.scheme, self.host, self.port

    @classmethod
    def prepare(cls, check: Check) -> Self:
        """Raises requests' InvalidURL and its siblings, which are ValueErrors, for what is no http or https URL."""
        url = check.endpoint
        if "@" in url or "#" in url or not _is_plain(check):
            return cls._prepare_wholly(check)
        return cls.to(url)

    @classmethod
    def to(cls, url: str) -> Self:
        """A plain GET of a URL without a user name."""
        # The whole preparation takes 60 us and the URL 25 us of it; the rest is the same for all.
        if found := _AS_IT_IS.fullmatch(url):
            scheme, host, port, path = found.groups()
            is_literal = host[0].isdigit()
            number = int(port) if port else DEFAULT_PORTS[scheme]
            if number <= _LAST_PORT and (not is_literal or parse_address(host) is not None):
                return cls(url if path else f"{url}/", PLAIN_LINES, scheme, host, number, is_literal)
        prepared = PreparedRequest()
        prepared.prepare_url(url, None)
        return cls._aimed(prepared.url or "", PLAIN_LINES, "GET", None)

    @classmethod
    def _prepare_wholly(cls, check: Check) -> Self:
        url, userinfo = split_userinfo(check.endpoint)
        method = check.method or "GET"
        headers = CaseInsensitiveDict(_HEADERS)
        headers.update(check.headers or {})
        if check.user_agent is not None:
            headers["User-Agent"] = check.user_agent
        content = _content(check.body, headers)
        prepared = Request(method, url, headers=headers, auth=_auth(check, userinfo), **content).prepare()
        body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
        if body is None and method in _WITH_BODY:
            body = b""
        lengthless = [(name, _text(value)) for name, value in prepared.headers.items() if name != "Content-Length"]
        return cls._aimed(prepared.url or "", header_lines(lengthless), method, body)

    @classmethod
    def _aimed(cls, url: str, headers: list[Line], method: str, body: bytes | None) -> Self:
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme not in DEFAULT_PORTS or not host:
            raise ValueError("must be an http or https URL with a host")
        if "%" in host:
            raise ValueError("must have a host without escapes and zones")
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        is_literal = ":" in host
        # Most names end in a letter; asking about each of them would cost more than all the rest here.
        if not is_literal and (not host[-1].isalpha() or "0x" in host) and _LOOKS_NUMERIC.fullmatch(host):
            is_literal = True
            if parse_address(host) is None:
                host = _number(host)
                url = parts._replace(netloc=f"{host}:{port}").geturl()
        return cls(url, headers, parts.scheme, host, port, is_literal, method, body)


def _number(host: str) -> str:
    """The IPv4 address that a host means which ends in a number: with fewer parts, hexadecimal, octal, with a dot.

    It is written out before it is judged, because libcurl, the system's resolver and a proxy would each read it in
    their own way. Raises ValueError for what is no address; by the URL standard it is no name either.
    """
    try:
        return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        raise ValueError("must write an IPv4 address as four decimal numbers") from None


def _is_plain(check: Check) -> bool:
    return (
        check.method in (None, "GET")
        and check.headers is None
        and check.user_agent is None
        and check.body is None
        and check.auth is None
    )


def split_userinfo(url: str) -> tuple[str, str]:
    """The URL without user name, password and fragment, and the user name and password as they stand in it."""
    parts = urlsplit(url)
    userinfo, _, netloc = parts.netloc.rpartition("@")
    return parts._replace(netloc=netloc, fragment="").geturl(), userinfo


def basic_auth(userinfo: str) -> HTTPBasicAuth:
    """The credentials of a URL: whatever bytes its percent signs stand for, as browsers and curl have it."""
    username, _, password = userinfo.partition(":")
    return HTTPBasicAuth(unquote_to_bytes(username), unquote_to_bytes(password))


def _auth(check: Check, userinfo: str) -> Callable[[PreparedRequest], PreparedRequest]:
    match check.auth:
        case BasicAuth(username=username, password=password):
            return HTTPBasicAuth(username.encode(), password.encode())
        case BearerAuth(token=token):
            return _Bearer(token)
        case _:
            return basic_auth(userinfo) if userinfo else _no_auth


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _no_auth(request: PreparedRequest) -> PreparedRequest:
    """In place of None, for which requests would look into the URL."""
    return request


def _content(body: Body | None, headers: CaseInsensitiveDict[str]) -> dict[str, Any]:
    """The body as requests' arguments."""
    match body:
        case TextBody(content=text):
            headers.setdefault("Content-Type", "text/plain; charset=utf-8")
            return {"data": text.encode()}
        case JsonBody(content=None):  # Which requests takes for no body at all.
            headers.setdefault("Content-Type", "application/json")
            return {"data": b"null"}
        case JsonBody(content=document):
            return {"json": document}
        case FormBody(content=fields):
            return {"data": fields}
        case _:
            return {}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def header_name(line: Line) -> str:
    """The name in a header's line, in lower case."""
    text = line.decode() if isinstance(line, bytes) else line
    return text.partition(":")[0].removesuffix(";").lower()
