"""What a call that is refused changes beside RAX: what its row says, and each register of it is seen to.

Every call of every test of TDX is held to the first half (`tdx_field`).
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from driver import Json, Keyboard, in_process
from tdx_field import CHANGED_BY, DEBUG, TdxHost, seen_to_change, td_params
from tdx_names import LEAVES, OPERAND_INVALID, PAGE
from tdx_script import Script
from tdx_state import state

NAMES = ("rcx", "rdx", *(f"r{number}" for number in range(8, 14)))
JUNK = {name: 0x1001 * number for number, name in enumerate(NAMES, 1)}
NULL = (1 << 64) - 1
PROGRESS = 0x000D  # class 0: a VCPU left, or a call goes on from where it was interrupted
BUSY = 0x0200  # a host's call that meets a lock may leave its mark, section 3.5
NAMES_OF = {number: leaf for leaf, number in LEAVES.items()}
CHANGES_MORE = {"SYS.CONFIG"}  # the KeyID stays reserved
SEPT = {"rcx", "rdx"}
PAGE_DATA = SEPT | {"r8", "r9", "r10", "r11"}
BY_HAND = {  # which registers a refused call leaves otherwise than they were given
    **{f"MEM.PAGE.{name}": SEPT for name in ("ADD", "AUG", "DEMOTE", "RELOCATE", "REMOVE")},
    **{f"MEM.{name}": SEPT for name in ("RANGE.BLOCK", "RANGE.UNBLOCK", "SEPT.ADD", "SEPT.RD")},
    "MR.EXTEND": SEPT,
    "MEM.RD": SEPT | {"r8"},
    "MEM.WR": SEPT | {"r8"},
    "MEM.PAGE.PROMOTE": SEPT | {"r9", "r10", "r11"},
    "MEM.SEPT.REMOVE": SEPT | {"r9", "r10", "r11"},
    "MNG.INIT": {"rcx"},
    "MNG.RD": {"rdx", "r8"},
    "VP.RD": {"rdx", "r8"},
    "SYS.RD": {"rdx", "r8"},
    "MNG.WR": {"r8"},
    "VP.WR": {"r8"},
    "SYS.RDALL": {"r8"},
    "PHYMEM.PAGE.RDMD": PAGE_DATA,
    "PHYMEM.PAGE.RECLAIM": PAGE_DATA,
    "SYS.INFO": {"rdx", "r9"},
    "SYS.TDMR.INIT": {"rdx"},
}


def test_rows_name_what_the_sheet_names() -> None:
    assert {leaf: changed for leaf, changed in CHANGED_BY.items() if changed} == BY_HAND


@pytest.mark.parametrize("leaf", BY_HAND)
def test_each_register_that_a_row_names_is_seen_to_change(tdx_host: TdxHost, leaf: str) -> None:
    seen_to_change[leaf].clear()
    td = tdx_host.initialized(td_params(attributes=DEBUG))
    vcpu = td.vcpu()
    refused = tdx_host.call(leaf, version=leaf in ("MEM.PAGE.PROMOTE", "MEM.SEPT.REMOVE"), **JUNK)
    assert refused.rax & ~0xFF == OPERAND_INVALID or leaf == "SYS.RD"
    if leaf in ("MNG.RD", "MNG.WR"):
        tdx_host.call(leaf, version=leaf == "MNG.RD", **JUNK | {"rcx": td.tdr, "rdx": NULL >> 1})
    elif leaf in ("VP.RD", "VP.WR"):
        tdx_host.call(leaf, version=leaf == "VP.RD", **JUNK | {"rcx": vcpu, "rdx": NULL >> 1})
    elif leaf == "MEM.RD" or leaf == "MEM.WR":
        tdx_host.call(leaf, **JUNK | {"rcx": PAGE, "rdx": td.tdr})
    assert seen_to_change[leaf] == BY_HAND[leaf]


class Unchanged:
    """A console on the machine itself that holds every refused call to having changed nothing else."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self._machine = console._rig.machines[0]
        self.refused: Counter[str] = Counter()
        self.done = 0  # calls that did something, and that is seen

    def answer(self, request: Json) -> Json:
        if request["op"] not in ("call", "enter"):
            answer: Json = self._console.answer(request)
            return answer
        before = state(self._machine)
        answer = self._console.answer(request)
        status = int(answer.get("ok", {}).get("rax", "0"), 16)
        code = status >> 32 & 0xFFFF
        if status >> 63 and code > PROGRESS and code != BUSY:
            leaf = NAMES_OF.get(int(str(request.get("rax", 0)), 0) & 0xFFFF, "")
            self.refused[leaf] += 1
            assert leaf in CHANGES_MORE or state(self._machine) == before, (leaf, hex(status))
        elif not status and state(self._machine) != before:
            self.done += 1
        return answer


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["small", "migration"])
def test_a_refused_call_changes_nothing_that_the_module_keeps(profile: str) -> None:
    console = Unchanged(in_process("tdx", 0, profile=profile, memory_mib=3072))
    host = TdxHost(Keyboard(console, 0))
    script = Script(Random(f"unchanged:{profile}"), host.boot((1,)), profile == "migration")
    for _ in range(80):
        script.step()
    assert len(console.refused) > 10, console.refused
    assert console.done > 40
