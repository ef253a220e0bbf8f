"""Why an attempt failed: libcurl's error numbers and the system's as our fixed reasons, each with one plain sentence.

libcurl's own text never leaves the probe; it may hold the URL, and it changes between versions.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

import pycurl
from urllib3.exceptions import HTTPError

from shared.monitor import Reason
from worker.probe.certificate import Chain, certificate_sentence


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt failed, and the phase that it died in; a wrong status has no such phase."""

    reason: Reason
    sentence: str
    phase: str | None = None
    unanswered_name: str | None = None
    """The name for which no name server answered, which may be a fault of ours: see name_servers.py."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of an exchange that libcurl gave up: enough to name the reason and to tell it to people."""

    error: int
    """One of libcurl's CURLE numbers."""
    os_error: int
    """The system's errno, 0 when there was none."""
    text: str
    """libcurl's text, for telling apart what shares one number."""
    phase: str
    phases: dict[str, float]
    timeout_seconds: float
    verify_result: int
    """OpenSSL's X509_V_ERR number."""
    peer: str | None
    """The address that was tried last, with its port."""
    also_tried: tuple[str, ...] = ()
    """The addresses before it. The numbers may belong to any of them."""
    is_interim: bool = False
    """Whether all that came was an interim answer, RFC 9110 15.2."""
    chain: Chain | None = None
    """The certificates that the server sent, where they were asked for."""
    now: int = 0
    """Milliseconds since the epoch."""
    is_http2_wanted: bool = False


CUT = pycurl.E_ABORTED_BY_CALLBACK
"""Not libcurl's own here: the watchdog ended the transfer."""

MANY_MEMBERS = "Multi-member gzip"
"""libcurl's words for a gzip body that goes on behind the end of its first member, as RFC 1952 2.2 allows."""

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    HTTPError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pycurl.error,
)
"""What a bug or an exhausted machine may raise while one target is handled: that target's result is ``internal``. The
list is spelled out because rq's JobTimeoutException, an ordinary Exception, must get through."""

# Faults of the machine that the monitor runs on; they say nothing of the target.
_OUR_ERRNOS = {
    errno.EMFILE: "it has no file descriptor left",
    errno.ENFILE: "the system has no file descriptor left",
    errno.ENOMEM: "it has no memory left",
    errno.ENOBUFS: "the system has no network buffer left",
    errno.EADDRNOTAVAIL: "it has no free local address or port",
    errno.EADDRINUSE: "it has no free local address or port",
    errno.EAGAIN: "it has no free local address or port",
    errno.EACCES: "its own system forbids the connection",
    errno.EPERM: "its own system forbids the connection",
}

_UNREACHABLE = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
    errno.ENONET,
    errno.EAFNOSUPPORT,
}
_RESET = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN, errno.ENETRESET}

_REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: Reason.DNS,
    pycurl.E_OPERATION_TIMEDOUT: Reason.TIMEOUT,
    pycurl.E_PEER_FAILED_VERIFICATION: Reason.CERTIFICATE,
    pycurl.E_SSL_ISSUER_ERROR: Reason.CERTIFICATE,
    pycurl.E_SSL_INVALIDCERTSTATUS: Reason.CERTIFICATE,
    pycurl.E_SSL_CONNECT_ERROR: Reason.TLS,
    pycurl.E_SSL_CIPHER: Reason.TLS,
    pycurl.E_SSL_SHUTDOWN_FAILED: Reason.TLS,
    pycurl.E_USE_SSL_FAILED: Reason.TLS,
    pycurl.E_GOT_NOTHING: Reason.RESET,
    pycurl.E_PARTIAL_FILE: Reason.RESET,
    pycurl.E_SEND_ERROR: Reason.RESET,
    # The number for a chunk that cannot be parsed, and for whatever else a read may meet without an errno.
    pycurl.E_RECV_ERROR: Reason.PROTOCOL,
    pycurl.E_UNSUPPORTED_PROTOCOL: Reason.PROTOCOL,  # HTTP/0.9
    pycurl.E_FTP_WEIRD_SERVER_REPLY: Reason.PROTOCOL,
    pycurl.E_BAD_CONTENT_ENCODING: Reason.PROTOCOL,
    pycurl.E_HTTP2: Reason.PROTOCOL,
    92: Reason.PROTOCOL,  # CURLE_HTTP2_STREAM, which pycurl does not name
    95: Reason.PROTOCOL,  # CURLE_HTTP3
    96: Reason.PROTOCOL,  # CURLE_QUIC_CONNECT_ERROR
    100: Reason.PROTOCOL,  # CURLE_TOO_LARGE
}

_UNUSABLE = {
    pycurl.E_SSL_CERTPROBLEM: "the client certificate of this check cannot be used",
    pycurl.E_BAD_FUNCTION_ARGUMENT: "the private key of this check's client certificate does not belong to it",
}

_TLS_FAULTS = {
    # Words of OpenSSL's, and what they mean.
    "certificate required": "asks for a client certificate",
    "unknown ca": "does not accept the client certificate",
    "bad certificate": "does not accept the client certificate",
    "certificate unknown": "does not accept the client certificate",
    "certificate expired": "does not accept the client certificate",
    "wrong version number": "does not speak TLS on this port",
    "http request": "does not speak TLS on this port",
    "packet length too long": "does not speak TLS on this port",
    "record layer failure": "does not speak TLS on this port",
    "protocol version": "speaks no version of TLS that is safe",
    "unsupported protocol": "speaks no version of TLS that is safe",
    "unrecognized name": "does not know this host name",
}


def failure_of(seen: Circumstances) -> Failure:
    """The failure that libcurl's numbers mean. What they do not mean for certain is a fault of our own."""
    if seen.error == CUT:
        where = seen.peer or "the server"
        return Failure(Reason.PROTOCOL, f"{where} sends without end what is no answer", seen.phase)
    if seen.phase == "connect" and seen.error != pycurl.E_OPERATION_TIMEDOUT and seen.os_error in _OUR_ERRNOS:
        return our_fault(OSError(seen.os_error, ""))
    if seen.error == pycurl.E_OUT_OF_MEMORY:
        return our_fault(MemoryError())
    if seen.error in _UNUSABLE and seen.phase in ("connect", "tls"):
        return Failure(Reason.CERTIFICATE, _UNUSABLE[seen.error], "tls")
    if seen.error == pycurl.E_URL_MALFORMAT:  # Endpoints are held to stricter rules: only a redirect leads here.
        return bad_redirect()
    reason = _reason(seen)
    if reason is Reason.INTERNAL and (error := shortage()):
        return our_fault(error)
    return Failure(reason, _sentence(reason, seen), seen.phase)


def _reason(seen: Circumstances) -> Reason:
    if seen.os_error and seen.error != pycurl.E_OPERATION_TIMEDOUT:
        if seen.os_error == errno.ECONNREFUSED:
            return Reason.REFUSED
        if seen.os_error in _UNREACHABLE:
            return Reason.UNREACHABLE
        if seen.os_error == errno.ETIMEDOUT:  # The system gave up before our deadline: after about two minutes.
            return Reason.TIMEOUT
        if seen.os_error in _RESET:
            return Reason.RESET
    if seen.error == pycurl.E_RECV_ERROR and "SSL" in seen.text:
        return Reason.TLS
    return _REASONS.get(seen.error, Reason.INTERNAL)


def _sentence(reason: Reason, seen: Circumstances) -> str:
    where = seen.peer or "the server"
    match reason:
        case Reason.TIMEOUT:
            return _timeout_sentence(seen)
        case Reason.REFUSED if seen.also_tried:
            return f"{_all_tried(seen)} cannot be connected to: connection refused"
        case Reason.UNREACHABLE if seen.also_tried:
            return f"{_all_tried(seen)} cannot be connected to: no route"
        case Reason.REFUSED:
            return f"connection refused by {where}"
        case Reason.UNREACHABLE:
            return f"no route to {where}"
        case Reason.CERTIFICATE:
            return certificate_sentence(seen.verify_result, seen.chain, seen.now)
        case Reason.TLS:
            return _tls_sentence(where, seen.text)
        case Reason.RESET:
            moment = "wait" if seen.error == pycurl.E_SEND_ERROR else seen.phase
            if seen.is_interim:
                return f"{where} closed the connection after an interim answer, without a final one"
            return f"{where} closed the connection {_RESET_MOMENTS[moment]}"
        case Reason.PROTOCOL if seen.is_http2_wanted:
            return f"{where} did not speak HTTP/2 as it should"
        case Reason.PROTOCOL:
            return f"{where} answered with something that is not valid HTTP"
        case Reason.DNS:
            return "the name does not resolve"
        case _:
            return f"a fault of the monitor itself (number {seen.error})"


def _all_tried(seen: Circumstances) -> str:
    return " and ".join(filter(None, (*seen.also_tried, seen.peer)))


def _tls_sentence(where: str, text: str) -> str:
    for words, meaning in _TLS_FAULTS.items():
        if words in text:
            return f"{where} {meaning}"
    return f"the TLS handshake with {where} failed"


_RESET_MOMENTS = {
    "dns": "early",
    "connect": "while it was being made",
    "tls": "during the TLS handshake",
    "wait": "without an answer",
    "transfer": "in the middle of its answer",
}


def _timeout_sentence(seen: Circumstances) -> str:
    limit = f"within {seen.timeout_seconds:g} s"
    connected = f"connected in {seen.phases.get('connect', 0):.0f} ms"
    match seen.phase:
        case "dns":
            return f"no answer {limit}: the name was still being resolved"
        case "connect" if seen.also_tried:
            return f"no answer {limit}: {_all_tried(seen)} did not accept the connection"
        case "connect":
            return f"no answer {limit}: {seen.peer or 'the server'} did not accept the connection"
        case "tls":
            return f"no answer {limit}: {connected}, then the TLS handshake did not end"
        case "wait":
            return f"no answer {limit}: {connected}, then silence"
        case _ if seen.is_interim:
            return f"no answer {limit}: {connected}, then an interim answer, then silence"
        case _:
            first_byte = sum(ms for phase, ms in seen.phases.items() if phase != "transfer")
            return f"no complete answer {limit}: the first byte came after {first_byte:.0f} ms, the end did not"


def our_fault(error: BaseException) -> Failure:
    """A fault of the monitor itself, never of the target. The error's own text is not used: it may hold a URL."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    why = _OUR_ERRNOS.get(number or 0, "an error inside it")
    return Failure(Reason.INTERNAL, f"the monitor could not make the check: {why}")


def shortage() -> OSError | None:
    """Why no file can be opened just now, if none can: what getaddrinfo and pycurl do not tell."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error
    return None


def held_up() -> Failure:
    """The deadline passed while the monitor was not looking, so that nobody knows whether the answer was in time."""
    return Failure(Reason.INTERNAL, "the monitor was held up and missed whether an answer came in time")


def name_failure(host: str, error: OSError) -> Failure:
    """Why a name has no address; ``error`` is what getaddrinfo raised."""
    if not isinstance(error, socket.gaierror) or error.errno in (socket.EAI_MEMORY, socket.EAI_SYSTEM):
        return our_fault(MemoryError() if error.errno == socket.EAI_MEMORY else error)
    if error.errno == socket.EAI_AGAIN:
        return Failure(Reason.DNS, f"no name server could answer for {host}", "dns", unanswered_name=host)
    return Failure(Reason.DNS, f"the name {host} does not resolve", "dns")


def name_timeout(host: str, timeout_seconds: float) -> Failure:
    sentence = f"no answer within {timeout_seconds:g} s: {host} was still being resolved"
    return Failure(Reason.TIMEOUT, sentence, "dns", unanswered_name=host)


def no_name_server(names: int) -> Failure:
    return Failure(
        Reason.INTERNAL, f"the monitor could not make the check: no name server answered for any of {names} names"
    )


def no_address(host: str, ip_version: int | None) -> Failure:
    return Failure(Reason.DNS, f"the name {host} has no IPv{ip_version} address", "dns")


def wrong_family(host: str, ip_version: int | None) -> Failure:
    return Failure(Reason.UNREACHABLE, f"{host} is no IPv{ip_version} address", "connect")


def blocked(address: str) -> Failure:
    return Failure(Reason.BLOCKED, f"the address {address} is one that no check may connect to", "connect")


def unreadable_authorities() -> Failure:
    return Failure(Reason.CERTIFICATE, "the ca_certificate of this check cannot be read", "tls")


def oversized_header() -> Failure:
    return Failure(Reason.PROTOCOL, "the header of the answer does not end within 300 lines and 64 KiB", "transfer")


def undecodable(text: str) -> Failure:
    """The body is not what its Content-Encoding says; ``text`` is libcurl's."""
    what = "is not what its Content-Encoding says"
    if "Unrecognized" in text:
        what = "has a Content-Encoding that nobody asked for"
    elif MANY_MEMBERS in text:
        what = "is gzip of several members, of which only the first could be read"
    return Failure(Reason.PROTOCOL, f"the body of the answer {what}", "transfer")


def wrong_http_version(got: str) -> Failure:
    return Failure(Reason.PROTOCOL, f"expected HTTP/2, got HTTP/{got}")


def too_many_redirects(limit: int) -> Failure:
    return Failure(Reason.TOO_MANY_REDIRECTS, f"more than {limit} redirect{'' if limit == 1 else 's'}")


def bad_redirect() -> Failure:
    return Failure(Reason.PROTOCOL, "redirected to something that is not an http or https URL")


def wrong_status(expectation: str, got: int, hops: int, leads_to: str | None = None) -> Failure:
    """``leads_to`` is where a redirect leads that was not followed, redacted."""
    after = f" after {hops} redirect{'s' if hops > 1 else ''}" if hops else ""
    where = f", which leads to {leads_to}" if leads_to else ""
    return Failure(Reason.STATUS, f"expected {expectation}, got {got}{after}{where}")


def broken_assertion(sentence: str) -> Failure:
    return Failure(Reason.ASSERTION, sentence)


def undecided_assertion(sentence: str) -> Failure:
    return Failure(Reason.INTERNAL, f"the monitor could not decide an assertion, {sentence}")


def not_judged() -> Failure:
    return Failure(Reason.INTERNAL, "the monitor had no time to judge this check's assertions")
