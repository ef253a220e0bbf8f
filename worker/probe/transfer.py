"""One libcurl handle: one request on a fresh connection, the bounds of its answer, and its timings."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pycurl

from shared.addresses import is_forbidden, parse_address
from worker.probe.certificate import Chain
from worker.probe.exchange import REDIRECTS, Exchange, length_of, location_of, status_code_of
from worker.probe.failure import (
    FAULTS,
    MANY_MEMBERS,
    Circumstances,
    Failure,
    blocked,
    failure_of,
    oversized_header,
    undecodable,
    unreadable_authorities,
    wrong_http_version,
)
from worker.probe.lateness import Lateness
from worker.probe.proxy import Proxy, is_unconnected, proxy_failure, proxy_timeout
from worker.probe.purse import MAX_BODY_BYTES, Allowance
from worker.probe.request import Line, Outgoing, header_name
from worker.probe.way import Way, name_of_version

EVIDENCE_BYTES = 2048
MAX_BODY_PIECES = 16 * 1024
"""A body that nobody asks for, and that comes byte by byte, each a chunk of its own, is read no further: each piece
costs a microsecond."""
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_LINES = 300

SWITCHING_PROTOCOLS = 101

_HAS_HYBRID_GROUPS = re.compile(r"OpenSSL/(?:3\.(?:[5-9]|[1-9][0-9])|[4-9])")
_GROUPS = (
    "X25519:secp256r1:X448:secp384r1:secp521r1:X25519MLKEM768:ffdhe2048:ffdhe3072"
    if _HAS_HYBRID_GROUPS.search(pycurl.version)
    else None
)
"""For the key exchange, what OpenSSL 3.5 and later offer by themselves, but X25519 first: else they begin with a key of
the post-quantum hybrid, too, which costs an eighth of a check. A server that wants the hybrid asks for it."""

_BLANK = (b"\r\n", b"\n")
_STOP = -1


@dataclass(slots=True)
class _Seen:
    """What the callbacks saw of one exchange."""

    header_lines: int = 0
    header_bytes: int = 0
    body_bytes: int = 0
    body_pieces: int = 0
    body: bytearray = field(default_factory=bytearray)
    block: list[bytes] = field(default_factory=list)
    """The lines of the latest header block: the final answer's, once it is complete."""
    status_code: int = 0
    """Of the final answer, once its header is complete."""
    length: int | None = None
    """Of its body, as it says there; None where the end of it tells."""
    is_answered: bool = False
    is_enough: bool = False
    """Whether we ended the transfer because we know what we want to know."""
    is_oversized: bool = False
    is_starved: bool = False
    peers: list[str] = field(default_factory=list)
    """The addresses that were tried, the latest last."""
    forbidden: str | None = None
    fault: OSError | None = None
    lateness: Lateness = field(default_factory=Lateness)
    bug: BaseException | None = None
    """What a callback of ours raised."""


class _Lent(socket.SocketType):
    """A socket that pycurl duplicates and drops; it closes itself then, without a ResourceWarning."""

    def __del__(self) -> None:
        self.close()


class Transfer:
    """A libcurl handle to be used again and again, for one exchange at a time.

    The callbacks run inside libcurl. Whatever they raised would be printed by pycurl and lost, so they are short and
    only note what they see, their own faults too; the transfer is judged in :meth:`exchange`, and one that ended for
    no reason that was noted is a fault of ours.
    """

    def __init__(self, ca_file: str, *, block_private: bool) -> None:
        self.handle = pycurl.Curl()
        self.handle.transfer = self
        self._ca_file = ca_file
        self._block_private = block_private
        self._request: Outgoing | None = None
        self._headers: list[Line] | None = None
        self._way: Way | None = None
        self._is_ordinary = True
        """Whether the handle has no option that a later exchange must not have."""
        self._allowance: Allowance | None = None
        self._timeout_seconds = 0.0
        self._follows = False
        self._seen = _Seen()
        self.accounts: dict[int, Lateness] = {}
        """By socket, for whoever hands over what comes: of each that is opened the account of the exchange."""
        self._set_what_never_changes()

    def _set_what_never_changes(self) -> None:
        option = self.handle.setopt
        option(pycurl.NOSIGNAL, 1)
        option(pycurl.BUFFERSIZE, 4096)  # A call of libcurl reads ten times that: 20 ms where each byte is a chunk.
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
        option(pycurl.CAINFO, self._ca_file)
        option(pycurl.SSL_VERIFYPEER, 1)
        option(pycurl.SSL_VERIFYHOST, 2)
        if _GROUPS is not None:
            option(pycurl.SSL_EC_CURVES, _GROUPS)
        option(pycurl.OPENSOCKETFUNCTION, self._noting(self._open_socket, pycurl.SOCKET_BAD))
        option(pycurl.SOCKOPTFUNCTION, self._note_socket)
        option(pycurl.PREREQFUNCTION, self._begin_request)
        option(pycurl.HEADERFUNCTION, self._noting(self._take_header, _STOP))
        option(pycurl.WRITEFUNCTION, self._noting(self._take_body, _STOP))

    def aim(
        self,
        request: Outgoing,
        pins: Sequence[str],
        *,
        timeout_seconds: float,
        limit_seconds: float,
        follows: bool = True,
        way: Way | None = None,
        connect_to: str | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        """Makes the handle ready for ``request``.

        ``pins`` are names with their addresses, in the words of CURLOPT_RESOLVE; ``connect_to`` is where a connection
        is to lead in place of the URL's host, in those of CURLOPT_CONNECT_TO. ``timeout_seconds`` is what is left of
        the attempt's limit, ``limit_seconds`` the whole of it. With an ``allowance`` the body is kept.
        """
        if not self._is_ordinary:
            self.handle.reset()
            self._set_what_never_changes()
            self._headers = None
            self._is_ordinary = True
        option = self.handle.setopt
        option(pycurl.URL, request.url)
        if request.headers is not self._headers:
            option(pycurl.HTTPHEADER, request.headers)
            self._headers = request.headers
        milliseconds = max(1, round(timeout_seconds * 1000))
        option(pycurl.TIMEOUT_MS, milliseconds)
        option(pycurl.CONNECTTIMEOUT_MS, milliseconds)  # Else connecting may take 300 s and no more.
        if pins:
            option(pycurl.RESOLVE, pins)
        if way is not None or request.method != "GET" or request.body is not None:
            self._leave_the_ordinary(request, way, connect_to)
        self._request = request
        self._way = way
        self._allowance = allowance
        self._timeout_seconds = limit_seconds
        self._follows = follows

    def _leave_the_ordinary(self, request: Outgoing, way: Way | None, connect_to: str | None) -> None:
        self._is_ordinary = False
        option = self.handle.setopt
        if request.body is not None:
            option(pycurl.POST, 1)
            option(pycurl.POSTFIELDS, request.body)
            if not any(header_name(line) == "content-type" for line in request.headers):
                option(pycurl.HTTPHEADER, [*request.headers, "Content-Type:"])  # Not libcurl's guess.
        if request.method == "HEAD":
            option(pycurl.NOBODY, 1)
        elif request.method != "GET" or request.body is not None:
            option(pycurl.CUSTOMREQUEST, request.method)
        if way is not None:
            way.apply(self.handle, self._ca_file, is_https=request.is_https)
        if connect_to is not None:
            option(pycurl.CONNECT_TO, [connect_to])

    def close(self) -> None:
        self.handle.transfer = None
        self.handle.close()

    # --- callbacks -------------------------------------------------------------------------------------------------

    def _noting(self, callback: Callable[..., Any], end: int) -> Callable[..., Any]:
        """The callback, but what it raises is noted, and ends the transfer."""

        def noting(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except FAULTS as fault:
                self._seen.bug = fault
                return end

        return noting

    def _open_socket(self, _purpose: int, wanted: tuple[int, int, int, tuple[Any, ...]]) -> Any:
        family, kind, protocol, place = wanted
        seen = self._seen
        seen.lateness.begin()
        if family not in (socket.AF_INET, socket.AF_INET6) or _is_refused(place[0], self._block_private):
            seen.forbidden = str(place[0])
            return pycurl.SOCKET_BAD
        try:
            lent = _Lent(family, kind, protocol)
        except OSError as error:
            seen.fault = error
            return pycurl.SOCKET_BAD
        seen.peers.append(_spell(place[0], place[1]))
        return lent

    def _note_socket(self, descriptor: int, _purpose: int) -> int:
        """The socket has another number here than in :meth:`_open_socket`, for pycurl duplicates it."""
        self.accounts[descriptor] = self._seen.lateness
        return int(pycurl.SOCKOPT_OK)

    def _begin_request(self, *_addresses: object) -> int:
        """The connection is there, with TLS and all."""
        self._seen.lateness.answered()
        return int(pycurl.PREREQFUNC_OK)

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
        status_code = status_code_of(seen.block)
        if status_code >= 200:
            seen.is_answered = True
            seen.status_code = status_code
            seen.length = length_of(seen.block)
            # The body of a redirect is nobody's business, however large or slow.
            seen.is_enough = self._follows and status_code in REDIRECTS and location_of(seen.block) is not None
        elif status_code == SWITCHING_PROTOCOLS:
            seen.is_answered = seen.is_enough = True  # What follows is no HTTP any more.
        else:
            seen.block.clear()  # An interim answer; the final one follows, RFC 9110 15.2.
        seen.lateness.read(is_whole=seen.is_enough or seen.length == 0)
        return _STOP if seen.is_enough else None

    def _take_body(self, chunk: bytes) -> int | None:
        seen = self._seen
        room = (EVIDENCE_BYTES if self._allowance is None else MAX_BODY_BYTES) - len(seen.body)
        if room > 0:
            if self._allowance and not self._allowance.covers(len(seen.body) + min(room, len(chunk))):
                seen.is_starved = True
                return _STOP
            seen.body += chunk[:room]
        seen.body_bytes += len(chunk)
        seen.body_pieces += 1
        seen.lateness.read(is_whole=seen.body_bytes == seen.length)
        most_pieces = MAX_BODY_PIECES if self._allowance is None else MAX_BODY_BYTES
        if seen.body_bytes >= MAX_BODY_BYTES or seen.body_pieces >= most_pieces:
            seen.is_enough = True
            return _STOP
        return None

    # --- what came of it -------------------------------------------------------------------------------------------

    def exchange(self, error: int) -> Exchange:
        """What the exchange was; ``error`` is libcurl's number, 0 for an answer that was read to its end."""
        seen, way = self._seen, self._way
        info = self.handle.getinfo
        if seen.bug is not None:
            self._allowance = None
            self._seen = _Seen()
            raise seen.bug
        phases, phase, late_ms = self._phases(error)
        chain = info(pycurl.INFO_CERTINFO) if way is not None and way.reads_certificate else None
        is_undecodable = self._is_undecodable(error)
        failure = undecodable(self.handle.errstr()) if is_undecodable else self._failure(error, phases, phase, chain)
        self._allowance = None
        self._seen = _Seen()  # The body is the caller's now, and not kept alive here.
        return Exchange(
            elapsed_ms=sum(phases.values()),
            phases=phases,
            late_ms=late_ms,
            status_code=(info(pycurl.RESPONSE_CODE) or None) if seen.is_answered else None,
            location=location_of(seen.block) if failure is None and seen.status_code in REDIRECTS else None,
            failure=failure,
            address=None if phase == "connect" else _spell(info(pycurl.PRIMARY_IP), info(pycurl.PRIMARY_PORT)),
            header=seen.block if seen.is_answered else (),
            body=seen.body,
            body_bytes=min(seen.body_bytes, MAX_BODY_BYTES),
            chain=chain,
            is_undecodable=is_undecodable,
            is_starved=seen.is_starved,
        )

    def _phases(self, error: int) -> tuple[dict[str, float], str, float]:
        """The milliseconds of each phase that happened, the last of them, which a failure died in, and the lateness.

        What the loop was late with is taken off, but not where the time ran out: then no less than that has passed.
        All phases begin with something that we did, however late, but the last: the server goes on from its first byte
        to its last one, whether we look or not. Where both had come when we looked, their sum is true, not its parts.
        """
        info, way = self.handle.getinfo, self._way
        total = info(pycurl.TOTAL_TIME_T)
        if way is not None and way.proxy is not None and self._is_stuck_at(way.proxy):
            return {"connect": total / 1000}, "connect", 0.0
        ends = [("connect", info(pycurl.CONNECT_TIME_T))]
        if self._request and self._request.is_https:
            ends.append(("tls", info(pycurl.APPCONNECT_TIME_T)))
        ends.append(("wait", info(pycurl.STARTTRANSFER_TIME_T)))
        ends.append(("transfer", total))
        account = self._seen.lateness
        is_late = account.is_known and error != pycurl.E_OPERATION_TIMEDOUT
        phases: dict[str, float] = {}
        begun, late_ms, late_in_all_ms = 0, 0.0, 0.0
        for name, reached in ends:  # Microseconds since the start; 0 is what did not come to its end.
            end = reached or total
            taken = (end - begun) / 1000
            if is_late:
                before_ms = late_ms if name == "transfer" else 0.0
                late_ms = account.last_ms if name == "transfer" else account.milliseconds(begun, end)
                off = min(taken, late_ms - before_ms)
                taken -= off
                late_in_all_ms += off
            phases[name] = taken
            if not reached:
                return phases, name, late_in_all_ms
            begun = end
        return phases, "transfer", late_in_all_ms

    def _is_stuck_at(self, proxy: Proxy) -> bool:
        info = self.handle.getinfo
        if info(pycurl.APPCONNECT_TIME_T):
            return False
        is_https = self._request is not None and self._request.is_https
        return is_unconnected(proxy, info(pycurl.HTTP_CONNECTCODE), info(pycurl.REQUEST_SIZE), is_https=is_https)

    def _is_undecodable(self, error: int) -> bool:
        """Whether the body cannot be made out of what came, though the header was whole.

        With E_WRITE_ERROR, while our callbacks were content, libcurl's decoder met bytes behind the end of the coded
        body, or such nonsense at its beginning that nothing came out. What did come out is the body then; but where
        gzip goes on with a further member, that is only its beginning, and no assertion may be judged by it.
        """
        seen = self._seen
        if not seen.is_answered or seen.is_enough or seen.is_oversized or seen.is_starved:
            return False
        if error == pycurl.E_WRITE_ERROR:
            return not seen.body_bytes or (self._allowance is not None and MANY_MEMBERS in self.handle.errstr())
        return error == int(pycurl.E_BAD_CONTENT_ENCODING)

    def _failure(self, error: int, phases: dict[str, float], phase: str, chain: Chain | None) -> Failure | None:
        seen, way = self._seen, self._way
        info = self.handle.getinfo
        is_http2_wanted = way is not None and way.http_version == "2"
        if seen.is_enough or (seen.is_answered and not seen.is_oversized and error in (0, pycurl.E_WRITE_ERROR)):
            version = info(pycurl.INFO_HTTP_VERSION) if is_http2_wanted else None
            if version is not None and version != pycurl.CURL_HTTP_VERSION_2_0:
                return wrong_http_version(name_of_version(version))
            return None
        if error == 0 and way is not None and way.only_looks:
            return None
        if seen.is_oversized:
            return oversized_header()
        if phase == "connect" and seen.forbidden and not seen.peers and not seen.fault:
            return blocked(seen.forbidden)
        if way is not None and way.ca_certificate is not None and error == pycurl.E_SSL_CACERT_BADFILE:
            return unreadable_authorities()
        if way is not None and way.proxy is not None:
            proxy_error, connect_code = info(pycurl.PROXY_ERROR), info(pycurl.HTTP_CONNECTCODE)
            if failure := proxy_failure(error, proxy_error, connect_code, self.handle.errstr(), phase):
                return failure
            connect_ms = info(pycurl.CONNECT_TIME_T) / 1000
            is_at_proxy = phase == "connect" or (phase == "tls" and way.proxy.scheme.startswith("socks"))
            if connect_ms and error == pycurl.E_OPERATION_TIMEDOUT and is_at_proxy:
                return proxy_timeout(connect_ms, self._timeout_seconds, phase)
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
                peer=seen.peers[-1] if seen.peers else None,
                also_tried=tuple(dict.fromkeys(seen.peers[:-1])) if phase == "connect" else (),
                is_interim=seen.header_lines > 0 and not seen.is_answered and not seen.block,
                chain=chain,
                now=int(time.time() * 1000),
                is_http2_wanted=is_http2_wanted,
            )
        )


@lru_cache(maxsize=4096)
def _is_refused(address: str, block_private: bool) -> bool:
    parsed = parse_address(address)
    return parsed is None or is_forbidden(parsed, block_private=block_private)


def _spell(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
