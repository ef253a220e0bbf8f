"""What the system knows of a TCP connection: Linux's struct tcp_info."""

from __future__ import annotations

import math
import socket
import struct

_SIZE = 136
_LAST_DATA_RECV = struct.Struct("=52xI")
_BYTES_RECEIVED = struct.Struct("=128xQ")


def received_bytes(descriptor: int) -> int:
    """How many bytes ever came in; 0 where the system does not say."""
    return _read(descriptor, _BYTES_RECEIVED) or 0


def silent_seconds(descriptor: int) -> float:
    """How long ago the latest byte came in, in ticks of the system, 1 to 10 ms; infinity where it does not say."""
    found = _read(descriptor, _LAST_DATA_RECV)
    return math.inf if found is None else found / 1000


def _read(descriptor: int, field: struct.Struct) -> int | None:
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        return int(field.unpack_from(found)[0])
    except (OSError, struct.error):
        return None
    finally:
        connection.detach()
