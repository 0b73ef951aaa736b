"""A TDX host's software in a plan, in one process: what it cannot do it says, and it loses nothing by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from protocol.arch.tdx.compose import Rig, compose
from protocol.arch.tdx.cpu import Registers, registers
from protocol.arch.tdx.guest import GuestStep, Tdcall, Touch
from protocol.arch.tdx.host import attest
from protocol.arch.tdx.host import vm as loop
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.locks import Held
from protocol.arch.tdx.machine.checks import tree_lock
from protocol.arch.tdx.machine.report import report_key
from protocol.arch.tdx.platform import page_lock
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.arch.tdx.quote import QuotingEnclave
from protocol.arch.tdx.status import RAX, Status
from protocol.effects import Step, run
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

PAGE = 4096
IMAGE = bytes(range(256)) * (3 * PAGE // 256)
BEHIND = FIRST_PAGES + 3  # the first page behind the image
LIFE = (
    op.Create(0, 2, 2),
    op.Load(0),
    op.Start(0),
    op.Touch(0, 1, op.Pages(BEHIND, 6, 6, seed=3)),
    op.Share(0, 0, op.Pages(BEHIND + 6, 2, 2)),
)


def host_of(depth: int = 0, image: bytes | None = IMAGE) -> tuple[Rig, Host]:
    rig = compose(PROFILES["small"], depth, 1, 128 * MIB, 2)
    seat = rig.seats[0]
    return rig, Host(seat.level, seat.cpus, depth=depth, image=image)


def do(host: Host, *operations: op.Operation) -> None:
    for operation in operations:
        run(host.perform(operation))


@pytest.mark.parametrize("depth", [0, 1])
def test_an_interrupt_that_comes_while_caches_are_written_back_is_taken_and_the_td_ends(depth: int) -> None:
    rig, host = host_of(depth)
    do(host, op.BootHost(), *LIFE)
    answers = []
    real = host.module.call

    def call(name: str, lp: int = 0, *arguments: Any, **operands: int) -> Step[Registers]:
        if name == "phymem_cache_wb" and not answers:
            rig.seats[0].cpus[lp].interrupt = True
        out = yield from real(name, lp, *arguments, **operands)
        if name == "phymem_cache_wb":
            answers.append(out[RAX])
        return out

    host.module.call = call  # type: ignore[method-assign]
    do(host, op.Destroy(0))
    assert answers[0] == Status.INTERRUPTED_RESUMABLE
    assert answers[1] == Status.SUCCESS
    assert not host.guests


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("shared", [True, False])
def test_a_page_changes_sides_and_serves_there(depth: int, shared: bool) -> None:
    """The guest uses it before and afterwards; what was under it goes back when the guest does."""
    rig, host = host_of(depth)
    do(host, op.BootHost())
    free = host.pool.free
    do(host, *LIFE)
    vm, page = host.guests[0], BEHIND if shared else BEHIND + 6
    do(host, op.Change(0, 0, page, shared=shared, busy=False))
    assert (page in vm.shared, page in vm.private) == (shared, not shared)
    do(host, op.Destroy(0))
    assert host.pool.free == free
    do(host, op.Shutdown())
    assert rig.leaks() == []


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (op.Load(5), "no guest 5"),
        (op.Reset(0, clear=True), "no operation of a TDX host"),
        (op.Exits(0, 0, "diag_308", "vmm", 1), "no exit of a TD"),
        (op.Exits(0, 2, "wait", "vmm", 1), "2 VCPUs, no number 2"),
        (op.Create(0, 1, 1), "is there already"),
        (op.Shutdown(), "still there"),
    ],
)
def test_an_operation_that_makes_no_sense_says_so_and_loses_nothing(
    operation: op.Operation, said: str
) -> None:
    _, host = host_of()
    do(host, op.BootHost(), *LIFE)
    with pytest.raises(ValueError, match=said):
        do(host, operation)
    do(host, op.Touch(0, 0, op.Pages(BEHIND, 2, 2)), op.Destroy(0), op.Shutdown())


def test_a_host_that_is_off_has_no_module() -> None:
    _, host = host_of()
    with pytest.raises(ValueError, match="has not booted"):
        do(host, op.Create(0, 1, 1))
    do(host, op.BootHost(), op.Shutdown())
    with pytest.raises(ValueError, match="has not booted"):
        do(host, op.Create(0, 1, 1))


def test_a_host_without_an_image_loads_none() -> None:
    _, host = host_of(image=None)
    do(host, op.BootHost(), op.Create(0, 1, 1))
    with pytest.raises(OperationFailed, match="no image"):
        do(host, op.Load(0))
    do(host, op.Destroy(0))


def test_more_guests_than_keyids_are_refused_and_the_others_live_on() -> None:
    _, host = host_of()
    do(host, op.BootHost())
    most = len(host.keys)
    for number in range(most):
        do(host, op.Create(number, 1, 1))
    with pytest.raises(OperationFailed, match="no KeyID"):
        do(host, op.Create(most, 1, 1))
    do(host, op.Load(0), op.Start(0), op.Touch(0, 0, op.Pages(BEHIND, 1, 1)))


def test_memory_that_cannot_be_read_is_said() -> None:
    """A page of a TD's, to which its host has stored, is a machine check."""
    _, host = host_of()
    do(host, op.BootHost(), *LIFE)
    page = host.guests[0].private[BEHIND]
    assert host.level.write(page, b"x") is None
    with pytest.raises(OperationFailed, match="#MC"):
        host.load(page, 1)


def test_a_lock_that_nobody_gives_back_is_waited_for_a_while_and_then_said() -> None:
    """What holds it up is asked again, as Linux asks again; nothing is lost, and later all goes on."""
    rig, host = host_of()
    do(host, op.BootHost(), *LIFE)
    machine, vm = rig.machines[0], host.guests[0]
    for what, operation in (
        (page_lock(vm.tdr >> 12, 0), op.Exits(0, 0, "wait", "kernel", 1)),
        (tree_lock(machine.tds[vm.tdr >> 12]), op.Touch(0, 0, op.Pages(BEHIND + 9, 1, 1))),
    ):
        held = Held(machine.platform.locks)
        assert held.own(what)
        with pytest.raises(OperationFailed, match="OPERAND_BUSY"):
            do(host, operation)
        held.release_all()
        do(host, operation)
    do(host, op.Destroy(0), op.Shutdown())


@pytest.mark.parametrize(
    ("profile", "memory", "cpus", "said"),
    [
        ("small", 64 * MIB, 2, "allowed are whole pages, at least"),
        ("small", 128 * MIB + 1, 2, "allowed are whole pages"),
        ("small-2p", 256 * MIB, 1, "at least one for each of 2 packages"),
    ],
)
def test_a_host_that_cannot_be_composed_is_refused_with_what_can(
    profile: str, memory: int, cpus: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        compose(PROFILES[profile], 0, 1, memory, cpus)


# -- what a guest does that its host cannot go along with ---------------------------------------------------


def vmcall(function: int, r12: int, r13: int) -> Tdcall:
    return Tdcall(tuple(registers(rcx=0xFC00, r11=function, r12=r12, r13=r13)))


def a_guest() -> tuple[Host, loop.Vm]:
    _, host = host_of()
    do(host, op.BootHost(), *LIFE)
    return host, host.guests[0]


def lets(host: Host, *steps: GuestStep) -> None:
    run(loop.run(host, host.guests[0], 0, steps, ("tdvmcall",)))


MEMORY = 2 * MIB
WRONG: dict[str, tuple[Sequence[GuestStep], str]] = {
    "behind its memory": ([Touch(MEMORY)], "faults at 0x200000"),
    "shared, but not told": ([Touch(9 * PAGE | loop.SHARED_BIT)], "faults at 0x800000009000"),
    "no TDCALL": ([Tdcall(tuple(registers(rax=99)))], "a step of guest 0 ends with"),
    "a map too long": ([vmcall(loop.MAP_GPA, MEMORY - PAGE, 2 * PAGE)], "asks to map 0x1ff000, 0x2000 bytes"),
    "a quote in private memory": ([vmcall(loop.GET_QUOTE, 9 * PAGE, PAGE)], "asks for a quote in 0x9000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_guest_that_cannot_go_on_fails_and_can_still_be_destroyed(name: str) -> None:
    host, _ = a_guest()
    steps, said = WRONG[name]
    with pytest.raises(OperationFailed, match=said):
        lets(host, *steps)
    do(host, op.Destroy(0), op.Shutdown())


def test_an_lp_that_has_left_vmx_operation_enters_nobody() -> None:
    host, vm = a_guest()
    lp = host.module.lps[vm.vcpus[0].lp]
    lp.vmx = False
    with pytest.raises(loop.GuestFailed, match=r"VP\.ENTER of guest 0 raises #UD"):
        lets(host, Touch(BEHIND * PAGE))
    lp.vmx = True
    lets(host, Touch(BEHIND * PAGE))


def test_an_lp_that_has_left_vmx_operation_makes_no_calls() -> None:
    host, _ = a_guest()
    lp = host.module.lps[0]
    lp.vmx = False
    with pytest.raises(OperationFailed, match="mng_create raises #UD"):
        do(host, op.Create(1, 1, 1))
    lp.vmx = True
    do(host, op.Create(1, 1, 1), op.Destroy(1))


def test_a_page_that_is_what_is_asked_for_stays_and_one_without_memory_has_none_to_lose() -> None:
    host, vm = a_guest()
    under, unused = vm.private[BEHIND], BEHIND + 20
    free = host.pool.free
    lets(host, vmcall(loop.MAP_GPA, BEHIND * PAGE, PAGE))
    assert vm.private[BEHIND] == under
    lets(host, vmcall(loop.MAP_GPA, unused * PAGE | loop.SHARED_BIT, PAGE))
    assert unused in vm.open
    assert host.pool.free == free
    lets(host, Touch(unused * PAGE | loop.SHARED_BIT, write=True))
    assert unused in vm.shared


def test_a_host_that_mixes_up_its_pages_finds_out() -> None:
    host, vm = a_guest()
    one, other = BEHIND, BEHIND + 1
    vm.private[one], vm.private[other] = vm.private[other], vm.private[one]
    with pytest.raises(OperationFailed, match=r"PAGE\.REMOVE of guest 0 gives"):
        do(host, op.Change(0, 0, one, shared=True, busy=False))


# -- quotes that cannot be made ----------------------------------------------------------------------------


def test_a_guest_whose_report_was_made_elsewhere_gets_no_quote() -> None:
    host, _ = a_guest()
    host.quoting = QuotingEnclave(b"here", report_key(b"elsewhere"))
    with pytest.raises(OperationFailed, match="got no quote: status 0x8000000000000000"):
        do(host, op.Attest(0, 0, 0))


@pytest.mark.parametrize(("version", "length"), [(2, 1024), (attest.VERSION, attest.BUFFER_SIZE)])
def test_a_request_of_another_form_gets_no_quote(version: int, length: int) -> None:
    """Another version of the buffer, or a report that is longer than the buffer."""
    host, _ = a_guest()
    do(host, op.Attest(0, 0, 0))
    touch, call, *read = attest.quote_steps(bytes(1024))
    assert isinstance(touch, Touch)
    asked = attest.BUFFER.pack(version, 0, length, 0) + touch.value[attest.BUFFER.size :]
    lets(host, Touch(touch.gpa, True, asked), call, *read)
    answer = b"".join(host.heard)
    assert attest.BUFFER.unpack_from(answer) == (attest.VERSION, attest.FAILED, length, 0)
    assert not any(answer[attest.BUFFER.size :])
