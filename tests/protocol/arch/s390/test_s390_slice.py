"""The slice as the registry and the command find it, and what a keyboard of it holds back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch import architectures, load
from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.guest import Diag, Lctl, Load, Loop, Read, Sclp, SetCpu, Sigp, Spx, Touch, Uvc, Wait
from protocol.arch.s390.keyboard import TOD_OF_A_REQUEST
from protocol.arch.s390.keyboard.host import FACILITIES, facility_list
from protocol.arch.s390.keyboard.spaces import stores
from protocol.arch.s390.keyboard.steps import KINDS
from protocol.keyboard import Fields


def test_the_registry_finds_the_slice() -> None:
    assert "s390" in architectures()
    slice_ = load("s390")
    assert (slice_.name, slice_.title, slice_.realism) == ("s390", "IBM Z Secure Execution", "prototype")
    assert {"small", "full"} <= set(slice_.profiles)
    assert slice_.calls is CALLS


@pytest.mark.parametrize(
    "options",
    [
        {"depth": -1},
        {"depth": 5},
        {"hosts": 0},
        {"hosts": 65},
        {"memory_mib": 1},
        {"memory_mib": 65537},
        {"hosts": 64, "memory_mib": 65536},
        {"cpus": 0},
        {"cpus": 65},
        {"profile": "huge"},
    ],
    ids=str,
)
def test_a_machine_that_cannot_be_is_refused_with_what_is_allowed(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        load("s390").keyboard(**options)


def test_what_is_not_given_is_the_profiles() -> None:
    for name, profile in load("s390").profiles.items():
        info = load("s390").keyboard(profile=name).answer({"id": 1, "op": "info"})["ok"]
        assert (info["memory"], info["cpus"]) == (profile.memory_mib << 20, profile.cpus)


def test_a_small_host_without_room_for_an_ultravisor_is_a_host() -> None:
    keyboard = load("s390").keyboard(memory_mib=2, cpus=1)
    assert keyboard.answer({"op": "alloc", "len": 1 << 20})["ok"] == {"addr": "0x100000"}
    assert keyboard.answer({"op": "alloc", "len": 1})["error"]["code"] == "limit"


def test_the_clock_is_within_the_contracts_bounds() -> None:
    assert 1 <= TOD_OF_A_REQUEST <= 20 * 4096


def test_the_facility_list_has_the_leftmost_bit_first() -> None:
    raw = facility_list()
    assert {bit for bit in range(8 * len(raw)) if raw[bit // 8] & 0x80 >> bit % 8} == set(FACILITIES)


@given(st.integers(0, 1 << 20))
def test_a_table_is_stored_entry_by_entry(length: int) -> None:
    assert stores(length) == max(1, (length + 7) // 8)


def test_every_kind_of_step_can_be_typed() -> None:
    typed = [
        {"touch": "0x5000"},
        {"touch": 20480, "write": True, "value": "beef"},
        {"touch": 0, "write": True},
        {"read": 1, "len": 2},
        {"load": 1, "len": 8, "gpr": "0xf"},
        {"cpu": {"gprs": {"0": 1, "15": "0xff"}, "timer": 5, "problem_state": True}},
        {"cpu": {}},
        {"call": {"r2": 1, "r1": 2, "m3": 3, "m4": 4}},
        {"exit": "diag", "code": "0x44"},
        {"exit": "spx", "prefix": "0x2000"},
        {"exit": "sigp", "order": 5, "address": 1, "parameter": "0x9"},
        {"exit": "sclp", "command": 1, "gpa": 2},
        {"exit": "wait"},
        {"exit": "lctl", "cr": 6},
        {"exit": "loop"},
    ]
    assert KINDS.parse(Fields({"do": typed})) == [
        Touch(0x5000),
        Touch(0x5000, True, b"\xbe\xef"),
        Touch(0, True, b"\0"),
        Read(1, 2),
        Load(1, 8, 15),
        SetCpu(((0, 1), (15, 255)), 5, True),
        SetCpu(),
        Uvc(1, 2, 3, 4),
        Diag(0x44),
        Spx(0x2000),
        Sigp(5, 1, 9),
        Sclp(1, 2),
        Wait(),
        Lctl(6),
        Loop(),
    ]


def test_a_killed_hosts_keyboard_types_on_the_fresh_one() -> None:
    keyboard = load("s390").keyboard(depth=1)
    ask = keyboard.answer
    ask({"op": "write", "addr": "0x100000", "hex": "ff"})
    before = keyboard.hosts[0]._seat.level
    assert ask({"op": "kill"})["ok"] == {}
    assert keyboard.hosts[0]._seat.level is not before
    assert ask({"op": "read", "addr": "0x100000", "len": 1})["ok"] == {"hex": "00"}


def test_counts_of_the_machine_are_the_ledgers() -> None:
    keyboard = load("s390").keyboard(depth=1)
    ask = keyboard.answer
    ask({"op": "write", "addr": "0x100000", "hex": "01200001"})
    ask({"op": "counts"})
    ask({"op": "call", "r2": "0x100000"})
    counts = ask({"op": "counts"})["ok"]
    assert counts["uvc"] == {"query": 1}
    assert counts["machine"]["exits"] == 1, "an Ultravisor call of an L1 is one exit"
    assert counts["machine"]["te_calls.query.init.emulated.1"] == 1
    assert "te_issued" not in counts["machine"], "emulated: nothing is issued below"
