"""The one log of all processes: each line with its time and the name of its process."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from datetime import UTC, datetime

from honcho.colour import get_colours
from honcho.printer import Message, Printer

_LONGEST_LINE = 65_536


class Log:
    """What every process prints, line by line, each with the time and the name of its process."""

    def __init__(self, names: list[str]) -> None:
        colours = itertools.cycle(get_colours())
        self._colours = {name: next(colours) for name in names}
        width = max(map(len, names), default=0)
        self._printer = Printer(sys.stdout, width=width, colour="NO_COLOR" not in os.environ)
        self._rests: dict[str, bytes] = {}
        self._readers: dict[str, int] = {}

    def say(self, text: str, name: str = "monitor") -> None:
        now = datetime.now(UTC).astimezone()
        message = Message(type="line", data=text, time=now, name=name, colour=self._colours.get(name))
        try:
            self._printer.write(message)
        except OSError:
            # The terminal or the pipe we print to is gone. That must not stop the monitor, nor keep it from stopping.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def pipe(self, name: str) -> int:
        """A descriptor for the standard output of `name`; it outlives the process, whose successor writes to it too."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._readers[name] = reader
        self._rests[name] = b""
        asyncio.get_running_loop().add_reader(reader, self._read, name)
        return writer

    def finish(self) -> None:
        """Print what is still in the pipes."""
        for name in self._readers:
            while self._read(name):
                pass
            self._print(name, self._rests[name])

    def _read(self, name: str) -> bool:
        try:
            chunk = os.read(self._readers[name], _LONGEST_LINE)
        except BlockingIOError:
            return False
        *lines, rest = (self._rests[name] + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._rests[name] = rest
        for line in lines:
            self._print(name, line)
        return bool(chunk)

    def _print(self, name: str, line: bytes) -> None:
        if line.strip():
            self.say(line.decode(errors="replace"), name)
