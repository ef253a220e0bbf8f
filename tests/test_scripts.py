"""The Lua scripts of the store: how a file becomes what Redis is given, and that Redis takes each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.commands.core import Script

from shared.store import Store, scripts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scripts, "_FOLDER", tmp_path)
    return tmp_path


def test_a_script_stands_behind_its_functions_and_its_numbers(folder: Path, redis: Redis) -> None:
    (folder / "below.lua").write_text("local function below(n) return n < MOST end\n")
    (folder / "count.lua").write_text(
        "local found = 0\n"
        "for _, n in ipairs(SOME) do if below(n) then found = found + 1 end end\n"
        "return {found, MOST}\n"
    )
    below = scripts.read_script("below", MOST=3)
    count = scripts.read_script("count", below, SOME=(1, 2, 3), MOST=7)
    assert redis.eval(count, 0) == [2, 7]


def test_redis_takes_every_script_of_the_store(redis: Redis) -> None:
    found = [each for room in vars(Store(redis)).values() for each in vars(room).values() if isinstance(each, Script)]
    assert len({each.sha for each in found}) == len(list(scripts._FOLDER.glob("*.lua")))
    for each in found:
        assert redis.script_load(each.script) == each.sha
