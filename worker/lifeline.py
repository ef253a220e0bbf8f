"""The tie between a process and its parent: a child that leaves when the parent is gone, kill -9 included."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Looked up here and not in the child: between fork and exec the child should do as little as it can.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent(parent_pid: int, signum: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send `signum` to this process when `parent_pid`, its parent, ends for whatever reason.

    To be called in the child. The tie survives exec and not fork, and is to the thread that forked: parents fork from
    their main thread. Where the kernel knows no such tie (outside Linux) this does nothing.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    # A parent that died before the line above has sent nothing, and never will.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signum)


def is_blocking(pid: int, signum: signal.Signals) -> bool:
    """Whether `pid` holds back `signum` at this moment, as a process does inside the handler of that signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (blocked,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (signum - 1) & 1)
