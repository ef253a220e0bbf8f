"""What one run costs: its processor time, and the time that checks were under way in it."""

from __future__ import annotations

import time

from shared.capacity import Load


class Meter:
    """Begins with the run. What it costs itself is two readings of a clock each time that the run looks around."""

    def __init__(self) -> None:
        self._began = self._seen_at = time.monotonic()
        self._cpu_began = time.process_time()
        self._flight_seconds = 0.0
        self._checks = 0

    def flow(self, in_flight: int) -> None:
        """So many checks have been under way since the last call."""
        now = time.monotonic()
        self._flight_seconds += in_flight * (now - self._seen_at)
        self._seen_at = now

    def count(self, checks: int) -> None:
        """So many checks more are recorded."""
        self._checks += checks

    def load(self, open_at_most: float) -> Load:
        """Up to now; the run was open for further work for so many seconds at the most."""
        run_seconds = time.monotonic() - self._began
        cpu_seconds = time.process_time() - self._cpu_began
        return Load(self._checks, cpu_seconds, self._flight_seconds, run_seconds, min(run_seconds, open_at_most))
