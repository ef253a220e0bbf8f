"""What the system knows of a TCP connection: Linux's struct tcp_info."""

from __future__ import annotations

import socket
import struct

CLOSE_WAIT = 8
"""The state of a connection that the other side has ended. It will send nothing more but a reset."""
_SIZE = 136
_INFO = struct.Struct("=B127xQ")


def state_and_received(connection: socket.socket) -> tuple[int, int]:
    """``tcpi_state``, and how many bytes ever came in (``tcpi_bytes_received``), the end counted as one.

    Raises OSError or struct.error where this is no TCP connection, or the system does not say.
    """
    state, received = _INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE))
    return state, received
