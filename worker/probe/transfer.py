"""One libcurl handle: one request on a fresh connection, the bounds of its answer, and its timings."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pycurl

from shared.addresses import is_forbidden, parse_address
from worker.probe.failure import Circumstances, Failure, blocked, failure_of, oversized_header
from worker.probe.request import Outgoing

MAX_BODY_BYTES = 1024 * 1024  # decoded
MAX_HEADER_BYTES = 256 * 1024
MAX_HEADER_LINES = 300

REDIRECTS = (301, 302, 303, 307, 308)

SWITCHING_PROTOCOLS = 101

_BLANK = (b"\r\n", b"\n")
_STOP = -1


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request met: a status code, or a failure, or both (an answer that broke off)."""

    elapsed_ms: float
    phases: dict[str, float]
    """``connect`` to ``transfer`` as in monitor.PHASES; only what happened, and they add up to ``elapsed_ms``."""
    status_code: int | None = None
    location: str | None = None
    """Where a redirect leads that is to be followed."""
    failure: Failure | None = None
    address: str | None = None


@dataclass(slots=True)
class _Seen:
    """What the callbacks saw of one exchange."""

    header_lines: int = 0
    header_bytes: int = 0
    body_bytes: int = 0
    block: list[bytes] = field(default_factory=list)
    """The lines of the latest header block: the final answer's, once it is complete."""
    is_answered: bool = False
    """Whether the header of the final answer is complete."""
    is_enough: bool = False
    """Whether we ended the transfer because we know what we want to know."""
    is_oversized: bool = False
    peer: str | None = None
    opened: int = 0
    forbidden: str | None = None
    fault: OSError | None = None


class _Lent(socket.SocketType):
    """A socket that pycurl duplicates and drops; it closes itself then, without a ResourceWarning."""

    def __del__(self) -> None:
        self.close()


class Transfer:
    """A libcurl handle to be used again and again, for one exchange at a time.

    The callbacks run inside libcurl. Whatever they raised would be printed by pycurl and lost, so they are short and
    only note what they see; the transfer is judged in :meth:`exchange`, and one that ended for no reason that was
    noted is a fault of ours.
    """

    def __init__(self, ca_file: str, *, block_private: bool) -> None:
        self.handle = pycurl.Curl()
        self.handle.transfer = self
        self._block_private = block_private
        self._request: Outgoing | None = None
        self._headers: list[str] | None = None
        self._timeout_seconds = 0.0
        self._follows = False
        self._seen = _Seen()
        self._set_what_never_changes(ca_file)

    def _set_what_never_changes(self, ca_file: str) -> None:
        option = self.handle.setopt
        option(pycurl.NOSIGNAL, 1)
        option(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        option(pycurl.PROXY, "")  # Not the environment's.
        option(pycurl.NETRC, pycurl.NETRC_IGNORED)
        option(pycurl.FOLLOWLOCATION, 0)  # A redirect is an exchange of its own: see run.py.
        option(pycurl.ACCEPT_ENCODING, "")  # All that libcurl can decode.
        # A monitor that keeps connections, sessions or names does not see them break.
        option(pycurl.FRESH_CONNECT, 1)
        option(pycurl.FORBID_REUSE, 1)
        option(pycurl.SSL_SESSIONID_CACHE, 0)
        option(pycurl.DNS_CACHE_TIMEOUT, 0)
        # The store that libcurl builds from this file is kept in the multi handle: read once an engine.
        option(pycurl.CAINFO, ca_file)
        option(pycurl.SSL_VERIFYPEER, 1)
        option(pycurl.SSL_VERIFYHOST, 2)
        option(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        option(pycurl.HEADERFUNCTION, self._take_header)
        option(pycurl.WRITEFUNCTION, self._take_body)

    def aim(
        self,
        request: Outgoing,
        addresses: Sequence[str],
        *,
        timeout_seconds: float,
        limit_seconds: float,
        follows: bool,
    ) -> None:
        """Makes the handle ready for ``request``. ``addresses`` are those of a name, in order; none for a literal.

        ``timeout_seconds`` is what is left of the attempt's limit, ``limit_seconds`` the whole of it.
        """
        option = self.handle.setopt
        option(pycurl.URL, request.url)
        if request.headers is not self._headers:
            option(pycurl.HTTPHEADER, request.headers)
            self._headers = request.headers
        milliseconds = max(1, round(timeout_seconds * 1000))
        option(pycurl.TIMEOUT_MS, milliseconds)
        option(pycurl.CONNECTTIMEOUT_MS, milliseconds)  # Else connecting may take 300 s and no more.
        if addresses:
            literals = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
            option(pycurl.RESOLVE, [f"{request.host}:{request.port}:{literals}"])
        self._request = request
        self._timeout_seconds = limit_seconds
        self._follows = follows
        self._seen = _Seen()

    def close(self) -> None:
        self.handle.transfer = None
        self.handle.close()

    # --- callbacks -------------------------------------------------------------------------------------------------

    def _open_socket(self, _purpose: int, wanted: tuple[int, int, int, tuple[Any, ...]]) -> Any:
        family, kind, protocol, place = wanted
        seen = self._seen
        address = parse_address(place[0]) if family in (socket.AF_INET, socket.AF_INET6) else None
        if address is None or is_forbidden(address, block_private=self._block_private):
            seen.forbidden = str(place[0])
            return pycurl.SOCKET_BAD
        seen.peer = _spell(place[0], place[1])
        try:
            lent = _Lent(family, kind, protocol)
        except OSError as error:
            seen.fault = error
            return pycurl.SOCKET_BAD
        seen.opened += 1
        return lent

    def _take_header(self, line: bytes) -> int | None:
        seen = self._seen
        seen.header_lines += 1
        seen.header_bytes += len(line)
        if seen.header_lines > MAX_HEADER_LINES or seen.header_bytes > MAX_HEADER_BYTES:
            seen.is_oversized = True
            return _STOP
        if seen.is_answered:  # Trailers.
            return None
        if line not in _BLANK:
            seen.block.append(line)
            return None
        status_code = _status_code(seen.block)
        if status_code >= 200:
            seen.is_answered = True
            # The body of a redirect is nobody's business, however large or slow.
            seen.is_enough = self._follows and status_code in REDIRECTS and _location(seen.block) is not None
        elif status_code == SWITCHING_PROTOCOLS:
            seen.is_answered = seen.is_enough = True  # What follows is no HTTP any more.
        else:
            seen.block.clear()  # An interim answer; the final one follows, RFC 9110 15.2.
        return _STOP if seen.is_enough else None

    def _take_body(self, chunk: bytes) -> int | None:
        seen = self._seen
        seen.body_bytes += len(chunk)
        if seen.body_bytes >= MAX_BODY_BYTES:
            seen.is_enough = True
            return _STOP
        return None

    # --- what came of it -------------------------------------------------------------------------------------------

    def exchange(self, error: int) -> Exchange:
        """What the exchange was; ``error`` is libcurl's number, 0 for an answer that was read to its end."""
        info = self.handle.getinfo
        phases, phase = self._phases()
        failure = self._failure(error, phases, phase)
        return Exchange(
            elapsed_ms=sum(phases.values()),
            phases=phases,
            status_code=(info(pycurl.RESPONSE_CODE) or None) if self._seen.is_answered else None,
            location=_location(self._seen.block) if self._follows and failure is None else None,
            failure=failure,
            address=None if phase == "connect" else _spell(info(pycurl.PRIMARY_IP), info(pycurl.PRIMARY_PORT)),
        )

    def _phases(self) -> tuple[dict[str, float], str]:
        """The milliseconds of each phase that happened, and the last of them: the one that a failure died in."""
        info = self.handle.getinfo
        total = info(pycurl.TOTAL_TIME_T)
        ends = [("connect", info(pycurl.CONNECT_TIME_T))]
        if self._request and self._request.is_https:
            ends.append(("tls", info(pycurl.APPCONNECT_TIME_T)))
        ends.append(("wait", info(pycurl.STARTTRANSFER_TIME_T)))
        phases: dict[str, float] = {}
        begun = 0
        for name, end in ends:  # Microseconds since the start; 0 is what did not come to its end.
            if not end:
                phases[name] = max(0, total - begun) / 1000
                return phases, name
            phases[name] = max(0, end - begun) / 1000
            begun = end
        phases["transfer"] = max(0, total - begun) / 1000
        return phases, "transfer"

    def _failure(self, error: int, phases: dict[str, float], phase: str) -> Failure | None:
        seen = self._seen
        if seen.is_enough or (error == 0 and seen.is_answered):
            return None
        if seen.is_oversized:
            return oversized_header()
        if phase == "connect" and seen.forbidden and not seen.opened and not seen.fault:
            return blocked(seen.forbidden)
        info = self.handle.getinfo
        return failure_of(
            Circumstances(
                # A header that ends with the connection is no answer, although libcurl is content with it.
                error=error or pycurl.E_GOT_NOTHING,
                os_error=(seen.fault.errno or 0) if phase == "connect" and seen.fault else info(pycurl.OS_ERRNO),
                text=self.handle.errstr(),
                phase=phase,
                phases=phases,
                timeout_seconds=self._timeout_seconds,
                verify_result=info(pycurl.SSL_VERIFYRESULT),
                peer=seen.peer,
            )
        )


def _status_code(block: list[bytes]) -> int:
    """The status code of a header block; 0 when it has none."""
    words = block[0].split(None, 2) if block else []
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _location(block: list[bytes]) -> str | None:
    """Where a header block redirects to; None when it is no redirect."""
    if _status_code(block) not in REDIRECTS:
        return None
    for line in block:
        if line[:9].lower() == b"location:":
            return line[9:].strip().decode("utf-8", "replace")
    return None


def _spell(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
