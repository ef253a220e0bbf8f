"""Signal handlers, put off while libcurl works."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_PUT_OFF = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_put_off() -> Iterator[None]:
    """Runs the handlers of a job's alarm and the like at the end of the block, in place of somewhere inside it.

    Python runs a handler in the main thread between any two instructions: also inside a callback of libcurl, where
    pycurl prints and drops what it raises, and spoils the transfer. Blocking the signals is not enough, because then
    another thread receives them and the handler runs in the main thread all the same.
    """
    noted: list[int] = []
    handlers: dict[int, Handler] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)  # Without the frame, which would keep alive what lives in it.

    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in _PUT_OFF:
                handler = signal.getsignal(number)
                if callable(handler):
                    handlers[number] = handler
                    stack.callback(signal.signal, number, handler)  # First: what is raised in between restores it.
                    signal.signal(number, note)
        yield
    for noted_number in noted:
        handlers[noted_number](noted_number, None)
