"""The benchmarks run and find something: figures are nobody's promise here, that there are any is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.__main__ import COMMANDS, main
from benchmarks.sites import KINDS, good


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a small comparison wrote: the monitor alone, ten targets, once."""
    file = tmp_path_factory.mktemp("bench") / "found.json"
    choice = ["--systems", "monitor", "--kinds", "http"]
    main(["compare", "--sizes", "10", "--rounds", "1", "--checks", "10", "--idle", "0.1", *choice, "--json", str(file)])
    return json.loads(file.read_text())


def test_a_comparison_finds_what_a_check_costs(found: Any) -> None:
    (row,) = found["compare"]["rows"]
    figures = row["systems"]["monitor"]
    assert figures["checks"] == 10
    assert figures["wrong"] == 0
    assert figures["cpu_ms"] > 0
    assert figures["cpu_ms"] == pytest.approx(sum(figures["cpu_ms_by_part"].values()))
    assert figures["checks_per_second"] > 0
    assert figures["memory_mb"] > 10
    assert row["monitor_to_blackbox"] is None


def test_of_the_kind_with_hanging_targets_one_in_twenty_hangs() -> None:
    assert {kind: good(kind, 101) for kind in KINDS} == {
        "http": 101,
        "https": 101,
        "hanging 5 %": 95,
        "all hanging": 0,
        "all refused": 0,
    }


@pytest.mark.parametrize("command", ["all", *COMMANDS])
def test_each_command_tells_what_it_can_be_asked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "--json" in capsys.readouterr().out
