"""Why an attempt failed: libcurl's error numbers and the system's as our fixed reasons, each with one plain sentence.

libcurl's own text never leaves the probe; it may hold the URL, and it changes between versions.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

import pycurl

from shared.monitor import Reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt failed, and the phase that it died in; a wrong status has no such phase."""

    reason: Reason
    sentence: str
    phase: str | None = None


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

_CERTIFICATE_FAULTS = {
    1: "is not valid for this host",  # What libcurl sets before the handshake; its own comparison failed then.
    2: "was not signed by a known authority",
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself",
    19: "was not signed by a known authority",
    20: "was not signed by a known authority",
    21: "was not signed by a known authority",
    23: "was revoked",
    24: "was signed by a certificate that may not sign others",
    62: "is not valid for this host",
    64: "is not valid for this host",
}


def failure_of(seen: Circumstances) -> Failure:
    """The failure that libcurl's numbers mean. What they do not mean for certain is a fault of our own."""
    if seen.phase == "connect" and seen.error != pycurl.E_OPERATION_TIMEDOUT and seen.os_error in _OUR_ERRNOS:
        return our_fault(OSError(seen.os_error, ""))
    if seen.error == pycurl.E_OUT_OF_MEMORY:
        return our_fault(MemoryError())
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
        case Reason.REFUSED:
            return f"connection refused by {where}"
        case Reason.UNREACHABLE:
            return f"no route to {where}"
        case Reason.CERTIFICATE:
            return f"the certificate {_CERTIFICATE_FAULTS.get(seen.verify_result, 'could not be verified')}"
        case Reason.TLS:
            return f"the TLS handshake with {where} failed"
        case Reason.RESET:
            return f"{where} closed the connection {_RESET_MOMENTS[seen.phase]}"
        case Reason.PROTOCOL:
            return f"{where} answered with something that is not valid HTTP"
        case Reason.DNS:
            return "the name does not resolve"
        case _:
            return f"a fault of the monitor itself (number {seen.error})"


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
        case "connect":
            return f"no answer {limit}: {seen.peer or 'the server'} did not accept the connection"
        case "tls":
            return f"no answer {limit}: {connected}, then the TLS handshake did not end"
        case "wait":
            return f"no answer {limit}: {connected}, then silence"
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
        return Failure(Reason.DNS, f"no name server could answer for {host}", "dns")
    return Failure(Reason.DNS, f"the name {host} does not resolve", "dns")


def name_timeout(host: str, timeout_seconds: float) -> Failure:
    return Failure(Reason.TIMEOUT, f"no answer within {timeout_seconds:g} s: {host} was still being resolved", "dns")


def blocked(address: str) -> Failure:
    return Failure(Reason.BLOCKED, f"the address {address} is one that no check may connect to", "connect")


def oversized_header() -> Failure:
    return Failure(Reason.PROTOCOL, "the header of the answer does not end within 300 lines and 256 KiB", "transfer")


def too_many_redirects(limit: int) -> Failure:
    return Failure(Reason.TOO_MANY_REDIRECTS, f"more than {limit} redirects")


def bad_redirect() -> Failure:
    return Failure(Reason.PROTOCOL, "redirected to something that is not an http or https URL")


def wrong_status(expected: int, got: int, hops: int) -> Failure:
    after = f" after {hops} redirect{'s' if hops > 1 else ''}" if hops else ""
    return Failure(Reason.STATUS, f"expected {expected}, got {got}{after}")
