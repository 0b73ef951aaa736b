"""VMRUN of a guest host:

run its guest on a shadow of its control block. Sections 5.7 and 7.2 of the fact sheet.

The block is copied in once; ASID, nested table and VMSA are replaced. What the level below then reports is
the guest host's business, but for one thing: a page that it maps and the shadow does not yet. That is put
right, and the guest is entered again. Whether a nested fault is the guest host's own is judged by its table
and by its soft RMP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.books import is_dram
from protocol.arch.sev.cpu import Cpu, gp
from protocol.arch.sev.guest import Program
from protocol.arch.sev.machine.svm import PLAIN_ASIDS
from protocol.arch.sev.nesting.shadow import Space
from protocol.arch.sev.npt import Missing
from protocol.arch.sev.rmp import NOT_VALIDATED, NPF_ENC, NPF_PRESENT, NPF_RMP, NPF_USER, NPF_WRITE
from protocol.arch.sev.structs import (
    ES_ON,
    EXIT_INVALID,
    EXIT_NPF,
    NESTED_PAGING,
    PAGE,
    SEV_ON,
    U32,
    U64,
    VMCB_ASID,
    VMCB_EXITCODE,
    VMCB_GHCB,
    VMCB_MODE,
    VMCB_NCR3,
    VMCB_READ,
    VMCB_VMSA,
    Exit,
    Vmcb,
)
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

REFILLS = 1 << 20  # nested faults of one entry that are this level's own


def enter(n: Nested, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]:
    if not _ready(n, cpu, vmcb):
        return n.injected(gp())
    raw = n.peek(vmcb, VMCB_READ)
    assert isinstance(raw, bytes)
    control = Vmcb.unpack(raw)
    if not _acceptable(n, cpu, control):
        return _leave(n, vmcb, None, Exit(EXIT_INVALID))
    asids = {context.asid for context in n.platform.contexts.values()}
    snp = bool(control.mode & ES_ON) and control.asid in asids
    space = n.shadows.space(control.ncr3, control.asid, control.mode & (SEV_ON | ES_ON))
    shadow = n.shadow_vmcb(vmcb)
    _copy_in(n, shadow, control, space)
    running = control.vmsa // PAGE if snp and n.rmp.assigned(control.vmsa // PAGE) else None
    if running is not None and not n.rmp.is_busy(running):
        n.rmp.running.add(running)
    else:
        running = None
    space.entered += 1
    try:
        left = yield from _run(n, cpu, shadow, space, snp, program, stay, level)
    finally:
        space.entered -= 1
        if running is not None:
            n.rmp.running.discard(running)
    return _leave(n, vmcb, shadow, left)


def _ready(n: Nested, cpu: Cpu, vmcb: int) -> bool:
    """As on the machine: privilege, the save area, the control block's place, both pages unassigned."""
    if cpu.cpl or not cpu.hsave or vmcb % PAGE:
        return False
    if not is_dram(n.size, cpu.hsave, PAGE) or not is_dram(n.size, vmcb, PAGE):
        return False
    return not n.rmp.assigned(cpu.hsave // PAGE) and not n.rmp.assigned(vmcb // PAGE)


def _acceptable(n: Nested, cpu: Cpu, control: Vmcb) -> bool:
    """What the guest host's own books can say; the VMSA is judged below."""
    sev, es = bool(control.mode & SEV_ON), bool(control.mode & ES_ON)
    if not control.asid or not control.mode & NESTED_PAGING or (es and not sev):
        return False
    if not sev:
        return control.asid < PLAIN_ASIDS
    asids = n.platform.asids
    if not asids.may_run(control.asid, cpu.core) or (not es and control.asid < asids.min_sev):
        return False
    return not es or (control.vmsa % PAGE == 0 and is_dram(n.size, control.vmsa, PAGE))


def _copy_in(n: Nested, shadow: int, control: Vmcb, space: Space) -> None:
    own = n.below.memory
    asid = n.asid_below(control.asid) if control.mode & SEV_ON else control.asid
    vmsa = n.address_below(control.vmsa) if control.mode & ES_ON else 0
    for at, data in (
        (VMCB_ASID, U32.pack(asid)),
        (VMCB_MODE, U64.pack(control.mode)),
        (VMCB_GHCB, U64.pack(control.ghcb)),
        (VMCB_NCR3, U64.pack(space.root)),
        (VMCB_VMSA, U64.pack(vmsa)),
    ):
        own.write(shadow + at, data)
    n.ledger.count(("translations", "vmcb"))


def _run(
    n: Nested, cpu: Cpu, shadow: int, space: Space, snp: bool, program: Program, stay: bool, level: int
) -> Step[Exit]:
    for _ in range(REFILLS):  # pragma: no branch - each refill maps a page, and a guest step has few
        left = yield from n.below.memory.enter(n.kvm_cpu(cpu), shadow, program, stay, level)
        assert isinstance(left, Exit), f"a shadow block is refused: {left}"
        if left.code != EXIT_NPF:
            return left
        own = _judge(n, space, snp, left)
        if own is not None:
            return own
    raise AssertionError("a guest that faults for ever at pages that are mapped")  # pragma: no cover - ours


def _judge(n: Nested, space: Space, snp: bool, left: Exit) -> Exit | None:
    """The exit as the guest host sees it, or None if the shadow was filled and nobody has to know."""
    gpa, write = left.info2, bool(left.info1 & NPF_WRITE)
    private = bool(left.info1 & NPF_ENC)
    enc = NPF_ENC if private else 0
    leaf = n.shadows.walk(space, gpa, write)
    if isinstance(leaf, Missing):
        return Exit(EXIT_NPF, leaf.error | enc, gpa)
    if not is_dram(n.size, leaf.address, 1):
        return Exit(EXIT_NPF, NPF_USER | (NPF_WRITE if write else 0) | enc, gpa)
    page, frame = gpa // PAGE, leaf.address // PAGE
    n.refresh(n.rmp.head(frame))
    error = _refusal(n, snp, frame, leaf.large, space.key[1], page, private, write)
    if error not in (0, NOT_VALIDATED):
        bits = NPF_PRESENT | NPF_USER | (NPF_WRITE if write else 0)
        return Exit(EXIT_NPF, error | bits, gpa)
    writable = write or _may_write(n, space, snp, gpa, frame, leaf.large, page, private)
    if space.pages.get(page) == (frame, writable):
        return left  # mapped already: what the RMP below says is about the guest host's own state
    n.shadows.map(space, page, frame, writable)
    return None


def _refusal(
    n: Nested, snp: bool, frame: int, large: bool, asid: int, page: int, private: bool, write: bool
) -> int:
    """What the guest host's RMP says. Privilege levels are the RMP's below."""
    rmp = n.rmp
    if not rmp.live:
        return 0
    if not snp:
        return rmp.unprotected_fault(frame, large, private, write)
    if not private:
        return NPF_RMP if rmp.assigned(frame) else 0
    return rmp.private_fault(frame, large, asid, page, 0, write)


def _may_write(
    n: Nested, space: Space, snp: bool, gpa: int, frame: int, large: bool, page: int, private: bool
) -> bool:
    if isinstance(n.shadows.walk(space, gpa, True), Missing):
        return False
    return _refusal(n, snp, frame, large, space.key[1], page, private, True) in (0, NOT_VALIDATED)


def _leave(n: Nested, vmcb: int, shadow: int | None, left: Exit) -> Exit:
    """Store the exit in the guest host's block, as the hardware does."""
    n.deposit(vmcb + VMCB_EXITCODE, left.pack())
    if shadow is not None and left.code != EXIT_INVALID:
        ghcb = n.below.memory.peek(shadow + VMCB_GHCB, 8)
        assert isinstance(ghcb, bytes)
        n.deposit(vmcb + VMCB_GHCB, ghcb)
    n.ledger.count(("reflections", str(n.below.level), str(n.level)))
    n.ledger.reenter(n.below.level)
    return left
