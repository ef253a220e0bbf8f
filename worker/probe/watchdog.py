"""Cuts a connection whose other end keeps libcurl busy for ever, from a thread of its own.

Deadlines are kept between two calls of libcurl; a call ends when the socket has nothing more to read. Some loops inside
it never do: OpenSSL skips TLS HelloRequests as fast as they come, and a server that sent them without end held the
whole worker for as long as it liked. What counts is CPU time, so that a machine that slept cuts nobody off, together
with what came in: the dear honest calls, a handshake or the first load of the authorities, receive a few kilobytes.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

from worker.probe.tcp_info import state_and_received

LONGEST_SECONDS = 0.05
MUCH_BYTES = 128 * 1024
LONGEST_OF_ALL_SECONDS = 1.0
"""Nobody may take this long, however little comes in."""
LOOK_EVERY_SECONDS = 0.02

_Call = tuple[int, int]
"""Whose thread, and for which socket; each call is a tuple of its own."""


class Watchdog:
    """Knows what the thread that moves transfers works on, and whether it gets any further."""

    def __init__(self) -> None:
        self.cut_ports: set[int] = set()
        """The local ports of connections that were cut."""
        self._at: _Call | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="probe-watchdog", daemon=True)

    def start(self) -> None:
        """To be called before the first of these calls; starting again does nothing."""
        if self._thread.ident is None:
            with suppress(RuntimeError):  # The system has no thread left: then there is no watchdog.
                self._thread.start()

    def begins(self, descriptor: int) -> None:
        """A call for this socket begins in this thread."""
        self._at = (threading.get_ident(), descriptor)

    def ends(self) -> None:
        self._at = None

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        seen: _Call | None = None
        since, before = 0.0, 0
        while not self._closing.wait(LOOK_EVERY_SECONDS):
            call = self._at
            if call is None:
                continue
            thread, descriptor = call
            used = time.clock_gettime(time.pthread_getcpuclockid(thread))
            if call is not seen:
                seen, since, before = call, used, _received(descriptor)
            elif used - since > LONGEST_OF_ALL_SECONDS or (
                used - since > LONGEST_SECONDS and _received(descriptor) - before > MUCH_BYTES
            ):
                self._cut(call)

    def _cut(self, call: _Call) -> None:
        with suppress(OSError):  # It has just ended by itself.
            peer = socket.socket(fileno=call[1])
            try:
                if self._at is call:
                    self.cut_ports.add(peer.getsockname()[1])
                    peer.shutdown(socket.SHUT_RDWR)
            finally:
                peer.detach()


def _received(descriptor: int) -> int:
    """How many bytes ever came in; 0 where the system does not say."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return 0
    try:
        return state_and_received(connection)[1]
    except (OSError, struct.error):
        return 0
    finally:
        connection.detach()
