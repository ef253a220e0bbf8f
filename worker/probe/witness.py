"""Whether what libcurl reads while it has a connection in hand had come in before."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from typing import Self

_SIZE = 136
_INFO = struct.Struct("=B127xQ")
"""The state, and how many bytes ever came in: tcpi_state and tcpi_bytes_received of Linux's struct tcp_info."""
_CLOSE_WAIT = 8
"""The state of a connection that the other side has ended. It will send nothing more but a reset."""
_COUNT = struct.Struct("=i")
_NOTHING = bytes(_COUNT.size)


class Witness:
    """Looks at a connection when it is made, and again later; holds it open until it leaves, whoever closes it."""

    __slots__ = ("_connection", "_read", "_received", "_state")

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._state, self._received = self._info()
        self._read: int | None = None

    @classmethod
    def of(cls, descriptor: int) -> Self | None:
        """None where the system has no descriptor to spare, or knows nothing of this one."""
        try:
            return cls(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(descriptor)))
        except OSError:
            return None

    def look(self) -> None:
        """An answer has been read: what is read after it is a farewell, and does not count."""
        received = self._info()[1]
        (unread,) = _COUNT.unpack(fcntl.ioctl(self._connection, termios.FIONREAD, _NOTHING))
        self._read = received - unread

    def leave(self) -> bool:
        """Whether all that was read had come in before, and the end no later than that; to be called once."""
        if self._read is None:
            self.look()
        state = self._info()[0]
        self._connection.close()
        return self._read is not None and self._read <= self._received and self._state in (state, _CLOSE_WAIT)

    def _info(self) -> tuple[int, int]:
        state, received = _INFO.unpack(self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE))
        return state, received
