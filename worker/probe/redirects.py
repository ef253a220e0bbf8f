"""Which request follows a redirect, and what of the former one goes with it. Pure.

To the same origin everything goes on. To another one, and http and https of one host are two, nothing goes that may
prove or tell who asks: no header of the check, no credentials, no body, no client certificate; and nothing comes back
when a later hop returns.

The method changes as the Fetch standard has it, which is what browsers do: 303 makes everything but HEAD a GET, 301
and 302 make a POST a GET, and the body stays behind; 307 and 308 keep both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote, urljoin, urlsplit

from msgspec.structs import replace
from requests import PreparedRequest
from requests.structures import CaseInsensitiveDict
from requests.utils import requote_uri

from shared.check import Check
from shared.settings import Settings
from worker.probe.request import PLAIN_LINES, Line, Outgoing, basic_auth, header_name, split_userinfo

MAX_REDIRECTS = 10

_OF_THE_BODY = ("content-type", "content-encoding", "content-language", "content-location")

_NOT_IN_NAMES = re.compile(r"[\x00-\x20\x7f!-,/:-@\[-^`{-~]")
"""What is ASCII and in no host name: an escape must not bring in what would end or begin another part of the URL."""


def follows(check: Check, settings: Settings) -> bool:
    """Whether the check follows redirects: as it says, else unless one is what it expects."""
    if check.follow_redirects is not None:
        return check.follow_redirects
    if check.expected_http_codes is None:
        return not 300 <= settings.expected_code(check) <= 399
    return not any(settings.expects(check, code) for code in range(300, 400))


def following(request: Outgoing, status_code: int, location: str) -> Outgoing:
    """The request that a Location header asks for.

    Raises ValueError when it leads to anything but an http or https URL.
    """
    url, userinfo = split_userinfo(absolute(request, location))
    aimed = Outgoing.to(url)
    method = _method(request.method, status_code)
    body = request.body if method == request.method else None
    headers = request.headers
    if aimed.origin != request.origin:
        headers = PLAIN_LINES
        body = b"" if body else body
    elif method != request.method:
        headers = _kept(headers, lambda name: name not in _OF_THE_BODY)
    if userinfo:  # The server's own, not ours.
        headers = [*_kept(headers, lambda name: name != "authorization"), _authorization(userinfo)]
    return replace(aimed, headers=headers, method=method, body=body)


def absolute(request: Outgoing, location: str) -> str:
    """The URL that a Location header names; raises ValueError for what is none."""
    url = urljoin(request.url, requote_uri(location))
    parts = urlsplit(url)
    if "%" not in parts.netloc:
        return url
    userinfo, at, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=userinfo + at + _spelled_out(place)).geturl()


def _spelled_out(place: str) -> str:
    """Host and port with the host's letters in place of their escapes, for requests to encode as a name (UTS 46)."""
    host, colon, port = place.partition(":")
    if host.startswith("[") or "%" not in host:
        return place
    host = unquote(host, errors="strict")
    if _NOT_IN_NAMES.search(host):
        raise ValueError("must have a valid host name")
    return host + colon + port


def _method(method: str, status_code: int) -> str:
    if (status_code == 303 and method != "HEAD") or (status_code in (301, 302) and method == "POST"):
        return "GET"
    return method


def _kept(headers: list[Line], wanted: Callable[[str], bool]) -> list[Line]:
    if headers is PLAIN_LINES:
        return headers
    return [line for line in headers if wanted(header_name(line))]


def _authorization(userinfo: str) -> Line:
    prepared = PreparedRequest()
    prepared.headers = CaseInsensitiveDict()
    return f"Authorization: {basic_auth(userinfo)(prepared).headers['Authorization']}"
