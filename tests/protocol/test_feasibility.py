"""What slices say about nesting: every line has a source, every file a part, and every check an owner."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocol.arch import architectures, kinds, load
from protocol.calls import Treatment
from protocol.feasibility import TALK, TREATED, Feasibility, Part, Realism, as_dict, shares, tally

ARCH = Path(__file__).resolve().parents[2] / "protocol" / "arch"
NAMES = architectures()
SECTION = re.compile(r"\d+(\.\d+)?a?( item \d+)?( [A-Z])?(, \d+(\.\d+)?( [A-Z])?)*( to \d+\.\d+)?$")


def said(name: str) -> Feasibility:
    found: Feasibility = load(name).feasibility  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_is_about_the_calls_of_its_slice_and_as_real_as_that(name: str) -> None:
    one = said(name)
    assert one.name == name and one.calls is load(name).calls
    kinds_of = [load(kind) for kind in kinds() if load(kind).calls is one.calls]
    realisms = {kind.realism for kind in kinds_of}
    assert one.realism in realisms
    assert bool(one.remark) == (len(realisms) > 1), "not all of it is as real"


@pytest.mark.parametrize("name", NAMES)
def test_every_call_is_treated_in_one_of_the_ways(name: str) -> None:
    one = said(name)
    treated = [row.code for how in TREATED for row in one.treated(how)]
    assert sorted(treated) == sorted(one.calls)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_names_its_section_and_how_real_it_is(name: str) -> None:
    one = said(name)
    lines = [*one.fences, *one.requirements, *one.tables]
    for line in lines:
        assert SECTION.match(line.source), line
        assert all(getattr(line, field) or field == "met" for field in line.__slots__), line
    for row in one.calls.values():
        assert row.source and one.realism_of(row) in Realism


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_met_makes_nobody_say_that_it_is_built(name: str) -> None:
    unmet = [need for need in said(name).requirements if not need.met]
    assert all(need.realism in (Realism.NEEDS_TE_CHANGE, Realism.HYPOTHETICAL) for need in unmet)
    if said(name).realism is Realism.NEEDS_TE_CHANGE:
        assert unmet, "then it would not need a change"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_emulation_is_a_part_or_a_speed_up(name: str) -> None:
    one = said(name)
    files = {path.name for path in (ARCH / name / "nesting").glob("*.py")}
    assert files == set(one.files) | one.speed_ups
    assert set(one.files.values()) == set(Part)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_a_file_here(name: str) -> None:
    assert [table for table in said(name).tables if not (ARCH / name / table.where).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_worklist_has_every_check_once(name: str) -> None:
    one = said(name)
    listed = [item for item in one.worklist() if item.kind == "check"]
    assert len(listed) == len(one.before) + sum(len(row.checks) for row in one.calls.values())
    found = tally(one.worklist())
    assert found["check", True] and found["check", False] and found["table", True] == len(one.tables)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_inherited_where_nothing_is_issued_and_all_where_nobody_is_met(name: str) -> None:
    own = {how: set() for how in TREATED}
    for row in said(name).calls.values():
        for place in range(len(row.checks)):
            own[row.treatment].add(said(name).judged_here(row, place))
    assert own[Treatment.EMULATED] <= {True} and own[Treatment.NATIVE] <= {False}


def test_shares_are_of_the_lines_of_all_parts() -> None:
    files = {"a.py": Part.INTERFACE, "b.py": Part.INTERFACE, "c.py": Part.VCPU}
    divided = shares({"a.py": 50, "b.py": 25, "c.py": 25, "else.py": 9}, files)
    assert divided == {Part.INTERFACE: (75, 75), Part.MEMORY: (0, 0), Part.VCPU: (25, 25)}
    assert sum(TALK.values()) == 100


@pytest.mark.parametrize("name", NAMES)
def test_as_json_it_is_whole(name: str) -> None:
    one, text = said(name), as_dict(said(name))
    assert sum(len(lines) for lines in text["calls"].values()) == len(one.calls)
    assert [line["what"] for line in text["fenced"]] == [fence.what for fence in one.fences]
