"""One check of a target that is not stored, for whoever tries it out."""

from __future__ import annotations

import time

from shared.monitor import CheckResult, Target
from shared.settings import Settings
from shared.store import Store
from worker.probe import Engine


def check_once(trial_id: str, store: Store, settings: Settings) -> None:
    """Make the check of a trial and leave its result; nothing is recorded, and nobody is told."""
    check = store.trials.get(trial_id)
    if check is None:
        return
    target = Target(trial_id, check, revision=0, created_at=int(time.time() * 1000))
    with Engine(settings) as engine:
        engine.add(target)
        results: list[CheckResult] = []
        while not results:
            results = engine.poll(1.0)
    result = results[0]
    answer = result.answer.document() if result.answer else None
    store.trials.answer(trial_id, result.document() | {"answer": answer})
