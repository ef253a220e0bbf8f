"""Names to addresses: getaddrinfo in threads, so that a name whose servers are silent holds up nobody else.

libcurl has a threaded resolver of its own, but with 20 threads for all transfers and no way for pycurl to raise that
(CURLMOPT_RESOLVE_THREADS_MAX, libcurl 8.20): 20 names with silent servers made every other name time out, and closing
the multi handle waited for all of them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue

from worker.probe.failure import shortage

MAX_THREADS = 256


@dataclass(frozen=True, slots=True)
class Lookup:
    """What became of one name: its addresses in the order to try them, or the error."""

    host: str
    addresses: tuple[str, ...]
    error: OSError | None
    """A ``socket.gaierror`` with its EAI number, or an OSError with an errno for a fault of this machine."""
    ended_at: float
    """On the monotonic clock."""


class Resolver:
    """Looks names up in at most ``MAX_THREADS`` daemon threads, which are started as they are needed.

    ``wake_fd`` becomes readable when there is something for :meth:`answers`. Nothing is remembered: a monitor that
    caches names does not see them break. All methods belong to one thread, the engine's.
    """

    def __init__(self) -> None:
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._questions: SimpleQueue[str | None] = SimpleQueue()
        self._answers: deque[Lookup] = deque()
        self._threads = 0
        self._unanswered = 0
        self._is_open = True
        self._closing = threading.Lock()

    def ask(self, host: str) -> None:
        """Starts a lookup. Raises RuntimeError when there is no thread for it and none can be started."""
        if self._threads < min(self._unanswered + 1, MAX_THREADS):
            self._hire()
        self._questions.put(host)
        self._unanswered += 1

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name="probe-resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The system has no thread left: those that are there go on.
            if not self._threads:
                raise
        else:
            self._threads += 1

    def answers(self) -> list[Lookup]:
        """All lookups that ended since the last call."""
        os.eventfd_read(self.wake_fd)
        answers = [self._answers.popleft() for _ in range(len(self._answers))]
        self._unanswered -= len(answers)
        return answers

    def close(self) -> None:
        """Ends idle threads now, and the others when getaddrinfo lets go of them. Closing twice is allowed."""
        with self._closing:
            if not self._is_open:
                return
            self._is_open = False
            os.close(self.wake_fd)
        for _ in range(self._threads):
            self._questions.put(None)

    def _work(self) -> None:
        while self._is_open and (host := self._questions.get()) is not None:
            answer = _look_up(host)
            with self._closing:  # A thread that getaddrinfo held must not write to a descriptor that is another's now.
                if self._is_open:
                    self._answers.append(answer)
                    os.eventfd_write(self.wake_fd, 1)


def _look_up(host: str) -> Lookup:
    addresses: tuple[str, ...] = ()
    error: OSError | None = None
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        # A zone ("%eth0") belongs to link-local addresses only, and those are refused at the socket.
        addresses = tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    except UnicodeError:  # Python's own IDNA codec refuses labels that no name server would know.
        error = socket.gaierror(socket.EAI_NONAME, "not a name")
    except OSError as problem:
        error = shortage() or problem
    return Lookup(host, addresses, error, time.monotonic())
