"""What other tests rely on when they start processes of their own."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.processes import running, short_folder

PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]])
"""

# A process of some size is some tens of milliseconds in dying.
LARGE = """
import socket, sys, time
kept = b"x" * 300_000_000
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
time.sleep(60)
"""


def test_when_a_run_is_over_its_connections_are_closed() -> None:
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(folder, "listener.sock"))
        listener.bind(path)
        listener.listen()
        listener.settimeout(20)
        with running(folder, "-c", PARENT, LARGE, path, environment={}):
            connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            assert connection.recv(1) == b""
