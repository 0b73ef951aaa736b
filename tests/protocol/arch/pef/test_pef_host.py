"""Operations of a plan on a POWER host, alike at every depth; what each of them issues, by section 6."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import Bench, esm_step

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.compose import Rig, compose
from protocol.arch.pef.host import GuestFailed, Host
from protocol.arch.pef.kvm import vmm
from protocol.arch.pef.kvm.frames import GIVEN
from protocol.arch.pef.profiles import MIB, PROFILES
from protocol.arch.pef.status import P2, PARAMETER, SUCCESS, signed
from protocol.effects import run
from protocol.errors import OperationFailed, TeRefused
from protocol.plan import operations as op
from protocol.plan.operations import Pages

DEPTHS = (0, 1, 2)
IMAGE = bytes(range(256)) * 512  # 128 KiB: two pages
LOADED = 2 + 1 + 1 + 1 + 1  # kernel, initrd, RTAS, device tree, blob


def host_at(depth: int, profile: str = "small") -> tuple[Host, Rig]:
    rig = compose(PROFILES[profile], depth, 1, 128 * MIB, 1, 7)
    seat = rig.seats[0]
    return Host(seat.level, seat.cpus, Random(1), depth=depth, image=IMAGE), rig


def issued(host: Host, operation: op.Operation) -> dict[str, int]:
    """The ultracalls that an operation takes, by name."""
    before = dict(host.kvm.ucalls)
    run(host.perform(operation))
    return {name: n - before.get(name, 0) for name, n in host.kvm.ucalls.items() if n > before.get(name, 0)}


def running(depth: int) -> tuple[Host, Rig]:
    host, rig = host_at(depth)
    for operation in (op.BootHost(), op.Create(5, 16, 1), op.Load(5), op.Start(5)):
        run(host.perform(operation))
    return host, rig


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_life_of_a_guest(depth: int) -> None:
    host, rig = host_at(depth)
    assert issued(host, op.BootHost()) == {}
    assert issued(host, op.Create(5, 16, 1)) == {"UV_WRITE_PATE": 1}
    pages = LOADED + 1 + 7
    assert issued(host, op.Load(5)) == {
        "UV_REGISTER_MEM_SLOT": 1,
        "UV_PAGE_IN": pages,
        "UV_RETURN": pages + 2 + 3,
    }
    assert issued(host, op.Start(5)) == {}  # it runs already
    touched = op.Touch(5, 0, Pages(1024, 64, 64))
    assert issued(host, touched) == {"UV_RETURN": 1}  # the ultravisor has everything already
    assert issued(host, op.Share(5, 0, Pages(1024, 32, 32))) == {
        "UV_PAGE_INVAL": 2,
        "UV_PAGE_IN": 2,
        "UV_RETURN": 3,
    }
    assert issued(host, op.Change(5, 0, 1024, shared=False)) == {
        "UV_PAGE_INVAL": 1,
        "UV_PAGE_IN": 1,
        "UV_RETURN": 2,
    }
    assert issued(host, op.Swap(5, 0, Pages(1056, 32, 32))) == {
        "UV_PAGE_OUT": 2,
        "UV_PAGE_IN": 2,
        "UV_RETURN": 3,
    }
    again = issued(host, op.Reset(5, clear=False))
    assert (again["UV_UNREGISTER_MEM_SLOT"], again["UV_SVM_TERMINATE"], again["UV_WRITE_PATE"]) == (1, 1, 1)
    assert again["UV_PAGE_IN"] == pages
    assert issued(host, op.Destroy(5)) == {"UV_SVM_TERMINATE": 1, "UV_WRITE_PATE": 1}
    assert issued(host, op.Shutdown()) == {}
    assert not rig.machines[0].svms
    assert rig.machines[0].secure.free_units == rig.machines[0].secure.units


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("reason", "answered_by"),
    [("diag_notify", "kernel"), ("diag_500", "vmm"), ("sclp", "vmm"), ("wait", "kernel")],
)
def test_exits_are_answered_by_whom_the_plan_says(depth: int, reason: str, answered_by: str) -> None:
    host, rig = running(depth)
    rig.ledger.reset()
    run(host.perform(op.Exits(5, 0, reason, answered_by, 7)))
    flat = rig.ledger.flat()
    assert flat[f"exits.{depth + 1}.uv_c00.{answered_by}"] == 7
    assert flat[f"te_issued.UV_RETURN.{depth}"] == 8


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_guest_that_touches_what_is_not_its_own_fails_and_can_be_destroyed(depth: int) -> None:
    host, _ = running(depth)
    vm = host.guest(5).vm
    top = vm.slots[0].size // 4096
    with pytest.raises(GuestFailed, match="H_RTAS"):
        run(host.perform(op.Touch(5, 0, Pages(top - 16, 1, 1))))
    run(host.perform(op.Kill(5)))
    assert not host.guests


def test_a_guest_whose_pages_were_changed_fails() -> None:
    host, _ = running(0)
    guest = host.guest(5)
    from protocol.arch.pef.kvm import pages

    assert run(pages.store(host.kvm, host.cpu, guest.vm, 4 * MIB, b"tampered")) is None
    with pytest.raises(GuestFailed, match="0x980"):
        run(host.perform(op.Touch(5, 0, Pages(1024, 1, 1))))


def test_what_cannot_be_is_refused() -> None:
    host, _rig = running(0)
    for wrong in (
        op.Create(5, 16, 1),
        op.Load(9),
        op.Touch(5, 1, Pages(0, 1, 1)),
        op.Exits(5, 0, "hlt", "vmm", 1),
        op.Shutdown(),
        op.Operation(),
    ):
        with pytest.raises(ValueError):
            run(host.perform(wrong))
    with pytest.raises(TeRefused, match="an ultracall of guest 5") as refused:
        run(host.perform(op.Share(5, 0, Pages(1 << 20, 1, 1))))  # where it has no memory
    assert signed(refused.value.rc) == P2
    run(host.perform(op.Create(7, 256, 1)))
    with pytest.raises(TeRefused, match="UV_ESM"):  # more than there is secure memory
        run(host.perform(op.Load(7)))
    with pytest.raises(OperationFailed):
        run(host_at(0, "none")[0].perform(op.BootHost()))


@pytest.mark.parametrize("depth", DEPTHS)
def test_other_vcpus_become_secure_when_the_first_one_starts_them(depth: int) -> None:
    host, rig = host_at(depth)
    for operation in (op.BootHost(), op.Create(5, 16, 3), op.Load(5)):
        run(host.perform(operation))
    started = issued(host, op.Start(5))
    assert started == {"UV_RETURN": 2 * 2}  # for each: in, and the answer of RTAS; it comes by HRFID itself
    for vcpu in (1, 2):
        run(host.perform(op.Touch(5, vcpu, Pages(1024, 16, 16))))
        run(host.perform(op.Share(5, vcpu, Pages(1024 + 16 * vcpu, 16, 16))))
        run(host.perform(op.Exits(5, vcpu, "wait", "kernel", 3)))
    machine = rig.machines[0]
    (svm,) = machine.svms.values()
    assert {thread.vcpu.number for thread in svm.open.values()} == {0, 1, 2}
    run(host.perform(op.Reset(5, clear=False)))
    run(host.perform(op.Touch(5, 2, Pages(1024, 16, 16))))
    run(host.perform(op.Destroy(5)))
    assert not machine.svms


def test_a_plan_may_use_every_page_of_its_guest() -> None:
    host, _ = running(0)
    run(host.perform(op.Touch(5, 0, Pages(0, 4096, 256, 1))))
    run(host.perform(op.Share(5, 0, Pages(4096 - 64, 64, 64))))
    run(host.perform(op.Touch(5, 0, Pages(4096 - 64, 64, 64))))


# -- what the host's kernel refuses --------------------------------------------------------------------------


def test_a_host_without_an_lpid_or_memory_makes_no_guest() -> None:
    host, _ = host_at(0)
    host.kvm.shadows.update(host.kvm.lpids)
    with pytest.raises(OperationFailed, match=f"KVM_CREATE_VM: {vmm.ENOSPC}"):
        run(host.perform(op.Create(1, 16, 1)))
    assert not host.guests and not host.kvm.vms
    host.kvm.shadows.clear()
    host.kvm.gives_back(host.kvm.lpids.start)
    with pytest.raises(OperationFailed, match=f"guest 1: {vmm.ENOMEM}"):
        run(host.perform(op.Create(1, vmm.MOST_BYTES // MIB, 1)))
    run(host.perform(op.Kill(1)))
    assert not host.guests and not host.kvm.vms


def test_a_guest_is_not_loaded_without_an_image_or_memory_for_it() -> None:
    host, _ = host_at(0)
    run(host.perform(op.Create(1, 16, 1)))
    host.image = None
    with pytest.raises(OperationFailed, match="this host has no image"):
        run(host.perform(op.Load(1)))
    host.image = IMAGE
    host.kvm.frames.mark(0, host.kvm.level.size, GIVEN)
    with pytest.raises(OperationFailed, match="guest 1 cannot be loaded: SIGBUS"):
        run(host.perform(op.Load(1)))
    assert not host.guest(1).vm.secure


def test_a_guest_that_runs_is_neither_reset_nor_destroyed() -> None:
    host, _ = running(0)
    vcpu = host.guest(5).vm.vcpus[0]
    vcpu.running = True
    with pytest.raises(OperationFailed, match=f"KVM_PPC_SVM_OFF: {vmm.EBUSY}"):
        run(host.perform(op.Reset(5, clear=False)))
    with pytest.raises(OperationFailed, match=f"close: {vmm.EBUSY}"):
        run(host.perform(op.Destroy(5)))
    assert host.guest(5).vm.secure
    vcpu.running = False
    run(host.perform(op.Destroy(5)))
    assert not host.guests


def test_a_guest_whose_svm_ended_behind_kvms_back_is_not_reset() -> None:
    host, _ = running(0)
    vm = host.guest(5).vm
    assert run(host.kvm.ucall(host.cpu, front.SVM_TERMINATE, vm.lpid)) == SUCCESS
    with pytest.raises(OperationFailed, match=f"KVM_PPC_SVM_OFF: {vmm.EINVAL}"):
        run(host.perform(op.Reset(5, clear=False)))
    assert vm.secure
    run(host.perform(op.Destroy(5)))


def test_a_page_for_which_the_host_has_no_memory_is_not_swapped() -> None:
    host, _ = running(0)
    host.kvm.frames.mark(0, host.kvm.level.size, GIVEN)
    with pytest.raises(OperationFailed, match="page 0x400 of guest 5: SIGBUS"):
        run(host.perform(op.Swap(5, 0, Pages(1024, 16, 16))))
    assert host.guest(5).vm.secure


def test_a_page_to_share_for_which_the_host_has_no_memory_ends_the_transition() -> None:
    bench = Bench(0)
    vm = bench.vm()
    vcpu = vm.vcpus[0]
    vcpu.stop = frozenset({"H_SVM_PAGE_IN"})
    left = bench.enter(vm, esm_step(bench.load(vm)))
    while not left.gpr[5] & hcalls.SHARED:
        left = bench.enter(vm)
    bench.kvm.frames.mark(0, bench.kvm.level.size, GIVEN)
    vcpu.stop = frozenset({"H_SVM_INIT_ABORT"})
    left = bench.enter(vm)
    assert hcalls.name_of(left.gpr[3]) == "H_SVM_INIT_ABORT", "its own pages could not be shared"
    vcpu.stop = frozenset()
    bench.enter(vm)
    (done,) = vcpu.program.collect()
    assert signed(int(done["r3"], 16)) == PARAMETER and not vm.flags and not bench.rig.machines[0].svms
