"""Who cannot do what was asked of a shipped scenario is left out; who is named is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.fitting import NARROWED, load_fitting
from actors.scenario import BrokenScenario, load

ALL = load(None).scenario.arch


def fitting(name: str | None = None, **flags: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    named = {key.replace("__", "."): value for key, value in flags.items()}
    found = load_fitting(name, flags=named, environment={})
    return found.scenario.arch, found.notes


def test_the_default_scenario_is_about_all_four() -> None:
    assert sorted(ALL) == ["pef", "s390", "snp", "tdx"]
    assert fitting() == (ALL, ())


def test_who_cannot_is_left_out_with_a_reason() -> None:
    arches, notes = fitting(strategy__donation="bounded")
    assert arches == ("s390",)
    assert len(notes) == len(ALL) - 1
    assert any(note.startswith("pef is left out: strategy.donation: nothing is donated") for note in notes)
    resolved = load_fitting(None, flags={"strategy.donation": "bounded"}, environment={})
    assert resolved.origins["arch"] == NARROWED, "the results say so, too"


def test_who_is_named_is_refused() -> None:
    with pytest.raises(BrokenScenario):
        fitting(strategy__donation="bounded", arch="pef")
    with pytest.raises(BrokenScenario):
        load_fitting(None, flags={"strategy.donation": "bounded"}, environment={"NESTBED_ARCH": "s390,pef"})


def test_what_no_architecture_can_is_refused_as_before() -> None:
    with pytest.raises(BrokenScenario) as broken:
        fitting(guest__memory_mib="nonsense")
    assert [mistake.path for mistake in broken.value.mistakes] == ["guest.memory_mib"]


def test_a_scenario_of_ones_own_is_taken_by_its_word(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('arch = ["s390", "pef"]\n[strategy]\ndonation = "bounded"\n')
    with pytest.raises(BrokenScenario):
        fitting(str(mine))
