"""Real processes for tests: started under a mark, found again by it with all their descendants, and ended by pid."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from tests.waiting import eventually
from worker import valkey

PROJECT = Path(__file__).resolve().parent.parent


class Run:
    """One Python process of the project in an empty folder; what it prints goes to a file."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        self._log = folder / f"{self.mark}.log"
        kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "PATH", "TMPDIR")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env={**kept, "PYTHONPATH": str(PROJECT), "TEST_MARK": self.mark, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def says(self, text: str, seconds: float = 15) -> str:
        """Wait until the log holds `text`; the log."""
        try:
            return eventually(lambda: self.log if text in self.log else "", seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in the log:\n{self.log}") from None

    def signal(self, signum: signal.Signals) -> None:
        os.kill(self.pid, signum)

    def exit_code(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)

    def living(self) -> dict[int, str]:
        """Pid -> command line of the process and all its descendants that still run; zombies do not."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"TEST_MARK={self.mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def pid_of(self, text: str) -> int:
        """The one living process that has `text` in its command line."""
        (pid,) = [pid for pid, command in self.living().items() if text in command]
        return pid

    def kill_all(self) -> None:
        """Kill all that live, and wait until they are dead, which is later than ``living`` can tell.

        A process that dies shows its environment to nobody from the moment it gives back its memory. Its connections
        are closed after that, tens of milliseconds later on a busy machine, and Redis still hands it a job meanwhile.
        """
        with ExitStack() as dying:
            for pid in self.living():
                dying.enter_context(_killed(pid))

    def leaves_nothing(self, seconds: float = 10) -> None:
        eventually(lambda: not self.living(), seconds)


@contextmanager
def _killed(pid: int, seconds: float = 20) -> Iterator[None]:
    """Kill a process; at the end of the block it is dead, with all its threads, and has nothing open any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        yield
        is_dead, _, _ = select.select([descriptor], [], [], seconds)
        assert is_dead, f"process {pid} was killed and lives"
    finally:
        os.close(descriptor)


@contextmanager
def running(folder: Path, *arguments: str, environment: Mapping[str, str]) -> Iterator[Run]:
    """A Run that is killed at the end, with all that descends from it; its log is shown where a test fails."""
    run = Run(folder, *arguments, environment=environment)
    try:
        yield run
    except BaseException:
        print(run.log)
        raise
    finally:
        # Twice, because one of them may have been about to make another.
        run.kill_all()
        run.kill_all()
        run.process.wait()
        run.leaves_nothing()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a Unix socket, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="monitor-") as folder:
        yield Path(folder)


@contextmanager
def valkey_running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Valkey of the test's own on ``folder``/valkey.sock, which keeps its data there from one start to the next."""
    socket_path = folder / "valkey.sock"
    with (
        Redis(unix_socket_path=str(socket_path), retry=Retry(NoBackoff(), 0)) as redis,
        subprocess.Popen(valkey.command(socket_path, folder), stdout=subprocess.DEVNULL) as server,
    ):
        try:
            eventually(lambda: _answers(redis))
            yield server
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False
