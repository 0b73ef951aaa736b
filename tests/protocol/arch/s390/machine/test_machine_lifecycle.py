"""The states of a configuration and its CPUs, against a model that is nothing but sections 5.2 and 5.3."""

from __future__ import annotations

from typing import Any

import pytest
from guest_bench import Guest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.arch.s390.guest import Diag, Read, SetCpu
from protocol.arch.s390.machine.entities import CpuState
from protocol.arch.s390.structs import SieExit

OPERATING, STOPPED, CHECK_STOP, LOAD = 1, 2, 3, 5
CPUS = (0, 1)

acts = st.one_of(
    st.tuples(st.sampled_from(["operate", "stop", "check_stop", "load"]), st.sampled_from(CPUS)),
    st.tuples(st.sampled_from(["normal", "initial", "clear"]), st.sampled_from(CPUS)),
    st.tuples(st.sampled_from(["unshare_all", "prepare_reset", "diag308"]), st.just(0)),
)
CHAIN = [
    ("stop", 0),
    ("stop", 1),
    ("unshare_all", 0),
    ("prepare_reset", 0),
    ("clear", 0),
    ("clear", 1),
    ("load", 0),
]


class Model:
    """A running guest of two CPUs: what the sheet lets happen next."""

    def __init__(self) -> None:
        self.state = "running"
        self.pending = False
        self.cpus = dict.fromkeys(CPUS, "operating")
        self.reset = dict.fromkeys(CPUS, "")

    def may(self, act: str, cpu: int) -> bool:
        match act:
            case "stop" | "check_stop":
                return self.cpus[cpu] != "check-stop"
            case "operate":
                return self.cpus[cpu] != "check-stop" and self.state == "running" and not self.pending
            case "load":
                if self.cpus[cpu] == "check-stop":
                    return False
                if self.state == "prepared":
                    return all(self.reset.values()) and self.reset[cpu] in ("initial", "clear")
                return self.state == "running" and not self.pending
            case "normal" | "initial" | "clear":
                return self.cpus[cpu] != "operating"
            case "unshare_all":
                return "operating" not in self.cpus.values()
            case "prepare_reset":
                return self.state == "unshared"
        return self.enters(cpu)

    def do(self, act: str, cpu: int) -> None:
        match act:
            case "stop":
                self.cpus[cpu] = "stopped"
            case "check_stop":
                self.cpus[cpu] = "check-stop"
            case "operate" | "load":
                self.cpus[cpu] = "operating"
                self.state, self.pending = "running", False
            case "normal" | "initial" | "clear":
                self.cpus[cpu] = "stopped"
                if act != "normal" or not self.reset[cpu]:
                    self.reset[cpu] = act
            case "unshare_all":
                self.state = "unshared" if self.state == "running" else self.state
            case "prepare_reset":
                self.state, self.reset = "prepared", dict.fromkeys(CPUS, "")
            case "diag308":
                self.pending = True

    def enters(self, cpu: int) -> bool:
        return self.state == "running" and not self.pending and self.cpus[cpu] == "operating"


def perform(guest: Any, act: str, cpu: int) -> bool:
    """Do it on the machine; whether it was done."""
    call = guest.bench.call
    states = {"operate": OPERATING, "stop": STOPPED, "check_stop": CHECK_STOP, "load": LOAD}
    resets = {"normal": 0x0310, "initial": 0x0311, "clear": 0x0321}
    if act in states:
        reply = call(0x50, 0x0330, q18=guest.cpus[cpu], b27=states[act])
    elif act in resets:
        reply = call(0x40, resets[act], q18=guest.cpus[cpu])
    elif act == "diag308":
        guest.programs[0].replace()
        left = guest.enter(SetCpu(((2, 0),)), Diag(0x308, 0, 2), cpu=0)
        return isinstance(left, SieExit) and left.code == 0x6C
    else:
        reply = call(0x40, {"unshare_all": 0x0340, "prepare_reset": 0x0320}[act], q18=guest.handle)
    assert reply.cc == 0 or reply.rc == 0x0101, f"{act}: {reply.rc:#06x}"
    return bool(reply.cc == 0)


def enters(guest: Any, cpu: int) -> bool:
    guest.programs[cpu].replace()
    left = guest.enter(Read(0x10000, 4), cpu=cpu)
    assert isinstance(left, SieExit)
    assert left.code in (0x1C, 0x20)
    return left.code == 0x1C


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(acts, max_size=12), st.booleans())
def test_every_step_is_taken_or_refused_as_the_sheet_says(
    bench: Any, script: list[tuple[str, int]], chain: bool
) -> None:
    guest = bench.boot(cpus=2)
    model = Model()
    for act, cpu in [*(CHAIN if chain else []), *script]:
        allowed = model.may(act, cpu)
        assert perform(guest, act, cpu) == allowed, (act, cpu, vars(model))
        if allowed:
            model.do(act, cpu)
    for cpu in CPUS:
        assert enters(guest, cpu) == model.enters(cpu), vars(model)
    bench.uv.reset(clear_memory=False)
    bench.call(0x48, 0x000F, q18=0x8000_0000, q20=bench.profile.base_len).done()


@pytest.mark.parametrize("code", [0x0310, 0x0311, 0x0321])
def test_what_each_reset_clears(bench: Any, code: int) -> None:
    """A CPU reset leaves registers and prefix, an initial reset registers, a clear reset nothing."""
    guest = bench.boot()
    secure = bench.uv.secure_cpus[guest.cpus[0]]
    guest.run(SetCpu(gprs=((3, 0x33),), timer=77))
    secure.prefix, secure.psw = 0x4000, b"p" * 16
    guest.stop()
    bench.call(0x40, code, q18=guest.cpus[0]).done()
    assert secure.gprs[3] == (0 if code == 0x0321 else 0x33)
    assert secure.prefix == (0x4000 if code == 0x0310 else 0)
    assert secure.psw == (b"p" * 16 if code == 0x0310 else bytes(16))
    assert secure.timer is None
    assert secure.state is CpuState.STOPPED


def test_a_configuration_that_never_ran_has_nothing_to_unshare_and_still_starts(bench: Any) -> None:
    guest = Guest.create(bench, 2, 1)
    guest.load(bench.image())
    bench.call(0x40, 0x0340, q18=guest.handle).done()
    assert bench.call(0x40, 0x0320, q18=guest.handle).rc == 0x0101, "no reset has begun"
    for gaddr in (0, 0x1000):
        guest.secure(gaddr)
    bench.call(0x50, 0x0330, q18=guest.cpus[0], b27=LOAD).done()
    assert enters(guest, 0)


@pytest.mark.parametrize("length", [0, 0x2001, 0xFFFF_FFFF])
def test_a_header_of_an_impossible_length_is_refused_and_the_configuration_takes_another(
    bench: Any, length: int
) -> None:
    guest = Guest.create(bench, 2, 1)
    image, at = bench.image(), bench.alloc(2)
    bench.uv.write(at, image.header)
    reply = bench.call(0x50, 0x0300, q18=guest.handle, q20=at, w28=length)
    assert (reply.cc, reply.rc, reply.u(6, 2)) == (1, 0x010A, 0x0031)
    bench.call(0x50, 0x0300, q18=guest.handle, q20=at, w28=len(image.header)).done()


@pytest.mark.parametrize("state", [0, 4, 6, 0x7F, 0xFF])
def test_a_state_that_is_none_is_refused(bench: Any, state: int) -> None:
    guest = bench.boot()
    reply = bench.call(0x50, 0x0330, q18=guest.cpus[0], b27=state)
    assert (reply.cc, reply.rc) == (1, 0x0102)
    assert enters(guest, 0)
