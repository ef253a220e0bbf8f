"""What one check costs in CPU, over plain HTTP and HTTPS; and what it cost at another revision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.machine import redis_running
from benchmarks.processes import PROJECT
from benchmarks.sites import Sites

_MEASURED = Path(__file__).with_name("measured.py")
KINDS = ("http", "https")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds of one check; ``ratio`` is the total to that of the first tree."""

    kind: str
    tree: str
    worker_ms: float
    redis_ms: float
    total_ms: float
    ratio: float


def costs(trees: Mapping[str, Path], sites: Sites, folder: Path, *, count: int, rounds: int) -> list[Cost]:
    """What a check costs in each tree, by name; medians over ``rounds``, in which the trees take turns."""
    rows: list[Cost] = []
    with redis_running(folder) as (url, pid):
        for kind in KINDS:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
            for _ in range(rounds):
                for name, tree in trees.items():
                    found[name].append(_measure(tree, url, pid, getattr(sites, kind), sites.ca_file, folder, count))
            totals = {name: median(map(sum, parts)) for name, parts in found.items()}
            first = next(iter(totals.values()))
            for name, parts in found.items():
                worker_ms, redis_ms = (median(each) for each in zip(*parts, strict=True))
                rows.append(Cost(kind, name, worker_ms, redis_ms, totals[name], totals[name] / first))
    return rows


def _measure(
    tree: Path, redis_url: str, redis_pid: int, endpoint: str, ca_file: str, folder: Path, count: int
) -> tuple[float, float]:
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "PATH")}
    done = subprocess.run(
        [sys.executable, str(_MEASURED), redis_url, str(redis_pid), endpoint, str(count), "3"],
        cwd=tree,
        env={
            **kept,
            "PYTHONDONTWRITEBYTECODE": "1",
            "REDIS_URL": redis_url,
            "DATA_DIR": str(folder),
            "SSL_CERT_FILE": ca_file,
            "MAX_PER_HOST": "1000",
            "DEFAULT_HTTP_TIMEOUT": "60",
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return median(found["worker_ms"]), median(found["redis_ms"])


@contextmanager
def revision(name: str, folder: Path) -> Iterator[Path]:
    """The tree of another revision of this project, in a folder of its own while it is looked at."""
    tree = folder / "revision"
    git = ["git", "-C", str(PROJECT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), name], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)
