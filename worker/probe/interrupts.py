"""Signal handlers, put off while libcurl works."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_PUT_OFF = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context that runs the handlers of a job's alarm and the like at its end, in place of somewhere inside it.

    Python runs a handler in the main thread between any two instructions: also inside a callback of libcurl, where
    pycurl prints and drops what it raises, and spoils the transfer. Blocking the signals is not enough, because then
    another thread receives them and the handler runs in the main thread all the same.

    The handlers are stood in for once, not in each context, because a change of handlers takes a tenth of a check.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._noted: list[int] = []
        self._is_inside = False
        self._stand_in: Handler = self._take

    def attend(self) -> None:
        """Stand in for the handlers that are installed now; to be called again whenever others may have been."""
        if threading.current_thread() is threading.main_thread():
            for number in _PUT_OFF:
                handler = signal.getsignal(number)
                if callable(handler) and handler is not self._stand_in:
                    self._handlers[number] = handler
                    signal.signal(number, self._stand_in)

    def leave(self) -> None:
        """Put the handlers back, but for those that somebody has replaced meanwhile. Leaving twice is allowed."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is self._stand_in:
                signal.signal(number, handler)

    def __enter__(self) -> None:
        self._is_inside = True

    def __exit__(self, *_: object) -> None:
        self._is_inside = False
        while self._noted:
            number = self._noted.pop(0)
            self._handlers[number](number, None)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._is_inside:
            self._noted.append(number)  # Without the frame, which would keep alive what lives in it.
        else:
            self._handlers[number](number, frame)
