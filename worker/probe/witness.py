"""Whether what libcurl reads while it has a connection in hand had come in before."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from typing import Self

from worker.probe.tcp_info import CLOSE_WAIT, state_and_received

_COUNT = struct.Struct("=i")
_NOTHING = bytes(_COUNT.size)


class Witness:
    """Looks at a connection when it is made, and again later; holds it open until it leaves, whoever closes it."""

    __slots__ = ("_connection", "_read", "_received", "_state")

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._state, self._received = state_and_received(connection)
        self._read: int | None = None

    @classmethod
    def of(cls, descriptor: int) -> Self | None:
        """None where the system has no descriptor to spare, or knows nothing of this one."""
        try:
            return cls(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(descriptor)))
        except OSError:
            return None

    def look(self) -> None:
        """All of an answer has been read: what is read behind it is a farewell, and does not count."""
        self._read = self._read_by_now()

    def leave(self) -> bool:
        """Whether all that was read had come in before, and the end no later than that; to be called once."""
        if self._read is None:
            # An end may have been read that no piece of the answer tells of.
            read = self._read_by_now()
            is_ended_before = self._state in (state_and_received(self._connection)[0], CLOSE_WAIT)
        else:
            read, is_ended_before = self._read, True
        self._connection.close()
        return is_ended_before and read <= self._received

    def _read_by_now(self) -> int:
        """How many bytes, or more where nothing has come in since the first look."""
        state, received = state_and_received(self._connection)
        if received > self._received:
            (unread,) = _COUNT.unpack(fcntl.ioctl(self._connection, termios.FIONREAD, _NOTHING))
            received -= unread + (self._state != state == CLOSE_WAIT)  # The end counts as a byte that came in.
        return received
