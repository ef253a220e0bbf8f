"""The proxy of a check: what its URL says, and what may be asked of it. The environment's proxies are never used.

Three rules hold beside the one at the socket, which judges the proxy's own address like any other:

* a literal address behind a proxy is judged before anything is sent;
* a name behind a proxy that resolves names (http, https, socks5h) is resolved here as well, and refused when any
  address that it has is forbidden. When nobody here knows it, or not soon, it is left to the proxy;
* to a ``socks5`` proxy an address goes, never a name: the first allowed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote_to_bytes, urlsplit

import pycurl

from shared.addresses import is_forbidden, parse_address
from shared.monitor import Reason
from worker.probe.failure import Failure

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

_SUPPRESS_CONNECT_HEADERS = 265  # Which pycurl does not name: else the header of a CONNECT's answer is taken for ours.

E_PROXY = 97  # CURLE_PROXY

_UNREACHABLE = (Reason.UNREACHABLE, "could not reach the target")
_UNSUPPORTED = (Reason.UNREACHABLE, "does not forward this kind of connection")
_REFUSES_US = (Reason.UNREACHABLE, "does not accept our user name and password")

_HANDSHAKE_FAULTS = {
    # CURLproxycode. What is missing here is an answer that is no SOCKS.
    3: (Reason.RESET, "closed the connection"),
    10: _REFUSES_US,
    11: _REFUSES_US,
    12: _REFUSES_US,
    13: (Reason.RESET, "closed the connection"),
    14: (Reason.RESET, "closed the connection"),
    15: (Reason.RESET, "closed the connection"),
    16: (Reason.RESET, "closed the connection"),
    17: _UNSUPPORTED,
    18: _UNSUPPORTED,
    19: (Reason.REFUSED, "met a refused connection"),
    20: _UNREACHABLE,
    21: _UNREACHABLE,
    22: _UNREACHABLE,
    23: (Reason.UNREACHABLE, "does not allow this connection"),
    24: _UNREACHABLE,
    25: _UNREACHABLE,
    27: (Reason.DNS, "could not resolve the name"),
    33: _REFUSES_US,
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy is, and how it is spoken to."""

    scheme: str
    host: str
    port: int
    username: bytes = field(default=b"", repr=False)
    password: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        parts = urlsplit(url)
        userinfo = parts.netloc.rpartition("@")[0]
        username, _, password = userinfo.partition(":")
        return cls(
            parts.scheme,
            parts.hostname or "",
            parts.port or _DEFAULT_PORTS[parts.scheme],
            unquote_to_bytes(username),
            unquote_to_bytes(password),
        )

    @property
    def is_literal(self) -> bool:
        return parse_address(self.host) is not None

    @property
    def takes_names(self) -> bool:
        """Whether it resolves the names of targets itself."""
        return self.scheme != "socks5"

    def apply(self, handle: Any, ca_file: str, ca_certificate: bytes | None) -> None:
        """Sets libcurl's options. The proxy's own certificate is always verified, its target's or not."""
        option = handle.setopt
        host = f"[{self.host}]" if ":" in self.host else self.host
        option(pycurl.PROXY, f"{self.scheme}://{host}:{self.port}")
        option(pycurl.NOPROXY, "")  # Not the environment's exceptions.
        option(_SUPPRESS_CONNECT_HEADERS, 1)
        option(pycurl.PROXYAUTH, pycurl.HTTPAUTH_BASIC)
        if self.username or self.password:
            option(pycurl.PROXYUSERNAME, self.username)
            option(pycurl.PROXYPASSWORD, self.password)
        option(pycurl.PROXY_SSL_VERIFYPEER, 1)
        option(pycurl.PROXY_SSL_VERIFYHOST, 2)
        if ca_certificate is None:
            option(pycurl.PROXY_CAINFO, ca_file)
        else:
            handle.unsetopt(pycurl.PROXY_CAINFO)
            option(pycurl.PROXY_CAINFO_BLOB, ca_certificate)


def allowed(addresses: Sequence[str], *, block_private: bool) -> tuple[str, ...]:
    """Those of the addresses that a check may lead to."""
    parsed = [(text, parse_address(text)) for text in addresses]
    return tuple(text for text, address in parsed if address and not is_forbidden(address, block_private=block_private))


def is_unconnected(proxy: Proxy, connect_code: int, request_bytes: int, *, is_https: bool) -> bool:
    """Whether a connection that libcurl gave up went no further than the proxy.

    libcurl does not tell this of TLS through SOCKS: there False is a guess.
    """
    if proxy.scheme in ("http", "https") and is_https:
        return not connect_code
    return proxy.scheme != "http" and not is_https and not request_bytes


def proxy_timeout(connect_ms: float, timeout_seconds: float, phase: str) -> Failure:
    """The connection to the proxy was there; that to the target was not, or, in the phase ``tls``, its TLS."""
    who = "the TLS handshake behind the proxy, or the proxy itself," if phase == "tls" else "the proxy"
    sentence = f"no answer within {timeout_seconds:g} s: connected in {connect_ms:.0f} ms, then {who} was silent"
    return Failure(Reason.TIMEOUT, sentence, phase)


def proxy_failure(error: int, proxy_error: int, connect_code: int, text: str, phase: str) -> Failure | None:
    """Why a proxy did not forward the connection; None when what failed is something else."""
    if connect_code >= 300 or (connect_code and error == pycurl.E_COULDNT_CONNECT):
        reason = Reason.TIMEOUT if connect_code == 504 else Reason.UNREACHABLE
        reason = Reason.PROTOCOL if connect_code < 300 else reason
        return Failure(reason, f"the proxy answered the request for a connection with {connect_code}", phase)
    if error == pycurl.E_COULDNT_RESOLVE_PROXY:
        return Failure(Reason.DNS, "the name of the proxy does not resolve", phase)
    if error == pycurl.E_RECV_ERROR and "CONNECT aborted" in text:
        return Failure(Reason.RESET, "the proxy closed the connection", phase)
    if error == E_PROXY:
        reason, what = _HANDSHAKE_FAULTS.get(proxy_error, (Reason.PROTOCOL, "did not speak SOCKS"))
        return Failure(reason, f"the proxy {what}", phase)
    return None
