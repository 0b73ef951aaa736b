"""A TDX level that is asked by message: what crosses the link arrives, and what is no request is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from protocol.arch.tdx.compose import Rig, compose
from protocol.arch.tdx.cpu import Lp, registers
from protocol.arch.tdx.guest import Program, Read, Touch
from protocol.arch.tdx.linked import WIRE, LinkedTdx, LpState, Seamcall, Server, VpEnter
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.arch.tdx.status import RAX
from protocol.codec import Codec
from protocol.crossing import inline
from protocol.effects import Fault, Issue, Step
from protocol.errors import RemoteProtocolError

SYS_INIT = 33
PAGE = 4096
AT = LpState(0, True, 0, False, 0)


def apart(depth: int) -> Rig:
    return compose(PROFILES["small"], depth, 1, memory_bytes=128 * MIB, apart=True)


def through_bytes(server: Server) -> Callable[[Issue], Step[Any]]:
    """Every request and answer is packed and unpacked, as between processes."""
    codec = Codec(WIRE)

    def serve(effect: Issue) -> Step[Any]:
        arrived: Any = codec.decode(codec.encode(effect))
        answer = yield from server(arrived)
        return codec.decode(codec.encode(answer))

    return serve


def test_a_program_that_was_run_elsewhere_stands_where_it_stood_there() -> None:
    """Its steps and results came back over the link; the host's own program goes on from there."""
    level = apart(0).seats[0].level
    linked, serve = LinkedTdx(level), through_bytes(Server(level))
    program = Program(deque([Touch(0), Read(PAGE, 8)]), [{"hex": "00"}], 1, frozenset({"nmi"}))
    lp = level.lps[0]
    inline(linked.call(lp, registers(rax=SYS_INIT)), (serve,))
    out = inline(linked.enter(lp, registers(rcx=PAGE), program), (serve,))
    assert out[RAX], "there is no VCPU, so the guest did nothing"
    assert (program.steps, program.results, program.done) == (
        deque([Touch(0), Read(PAGE, 8)]),
        [{"hex": "00"}],
        1,
    )
    assert isinstance(program.steps, deque) and isinstance(program.results, list)
    assert program.vmm_reasons == {"nmi"}


def test_what_an_lp_is_in_crosses_with_each_request() -> None:
    level = apart(1).seats[0].level
    linked, serve = LinkedTdx(level), through_bytes(Server(level))
    lp = Lp(0)
    lp.vmx = False
    fault = inline(linked.call(lp, registers(rax=SYS_INIT)), (serve,))
    assert isinstance(fault, Fault) and fault.name == "#UD"
    lp.vmx, lp.cpl = True, 3
    fault = inline(linked.enter(lp, registers(rcx=PAGE), Program()), (serve,))
    assert isinstance(fault, Fault) and fault.name == "#GP"
    lp.cpl = 0
    assert not inline(linked.call(lp, registers(rax=SYS_INIT)), (serve,))[RAX]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Issue("uvc", (Seamcall(AT, registers(), False),)), "no operation of this level: 'uvc'"),
        (Issue("seamcall", ()), "no operation"),
        (Issue("seamcall", (VpEnter(AT, registers(), Program(), False, False),)), "no operation"),
        (Issue("vp_enter", (Seamcall(AT, registers(), False),)), "no operation"),
        (Issue("seamcall", (Seamcall(AT._replace(number=2), registers(), False),)), "2 LPs, no number 2"),
        (Issue("seamcall", (Seamcall(AT._replace(number=-1), registers(), False),)), "no number -1"),
        (Issue("seamcall", (Seamcall(AT, [0] * 15, False),)), "not the registers of an LP"),
        (Issue("seamcall", (Seamcall(AT, [1 << 64] + [0] * 15, False),)), "not the registers of an LP"),
        (Issue("vp_enter", (VpEnter(AT, [-1] + [0] * 15, Program(), False, False),)), "not the registers"),
    ],
)
def test_what_is_no_request_is_refused_with_what_was_wrong(wrong: Issue, said: str) -> None:
    level = apart(1).seats[0].level
    with pytest.raises(RemoteProtocolError, match=said):
        Server(level)(wrong)


class FarMemory:
    """The port to a guest host's memory: loads and stores, and nothing of the architecture."""

    def __init__(self, level: Any) -> None:
        self.size, self.read, self.write, self.peek, self.poke = (
            level.size, level.read, level.write, level.peek, level.poke,
        )  # fmt: skip


def test_a_host_elsewhere_stores_lines_like_anything_else_and_knows_no_plain_frames() -> None:
    """It has the leaves of the profile that it was promised."""
    level = apart(1).seats[0].level
    far: Any = FarMemory(level)
    linked = LinkedTdx(far, [Lp(0)])
    linked.profile = level.profile
    assert linked.direct_store(8 * PAGE, b"line".ljust(64)) is None
    assert level.read(8 * PAGE, 4) == b"line"
    assert not linked.plain(np.array([8]))
    assert LinkedTdx(level).plain(np.array([8]))
    assert set(linked.calls) == set(level.calls)
    assert linked.cpus == linked.lps
