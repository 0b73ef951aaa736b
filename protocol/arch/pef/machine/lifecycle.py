"""The transition of a VM into an SVM, its failure, and the end that the ultravisor makes of one.

Sections 6.1, 6.2, 7.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from protocol.arch.pef import blob, fdt, hcalls, tpm
from protocol.arch.pef.cpu import GPRS, HCALL, Vcpu
from protocol.arch.pef.guest import registers
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.machine.upcall import (
    OS_TERM_RETURNED,
    SLICE_ENDS,
    Answer,
    Panic,
    Reflect,
    Wait,
    Work,
    hypercall,
    page_in,
)
from protocol.arch.pef.profiles import DOCUMENTATION, FIRMWARE
from protocol.arch.pef.status import P2, P3, PARAMETER, PERMISSION, RETRY, SUCCESS
from protocol.arch.pef.tables import MSR_S, MSR_SF, PAGE, PAGE_SHIFT, SECURE_BIT, Page, SvmState

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

# Pages that the ultravisor shares for itself.
ARGUMENTS, STOP_SELF, TPM = "rtas_arguments", "stop_self", "tpm"
USES = (ARGUMENTS, *(f"rtas_buffer_{n}" for n in range(4)), STOP_SELF, TPM)
TPM_ANSWER = tpm.BUFFER  # offset of the answer in the bounce buffer, behind the command
MEASURED_BYTES = 1 << 32  # of any one area: no more is ever asked for

Asking = Generator[Reflect | Wait, Answer | None, None]


class Failed(Exception):
    """The transition cannot be completed. It never leaves this module."""


def accept(machine: Machine, lpid: int, gpr: list[int]) -> Svm | int:
    """UV_ESM behind the dispatcher's checks: the new SVM, or the answer."""
    choices = machine.profile.choices
    no_kernel, no_tree = (P2, P3) if choices.esm_codes == FIRMWARE else (PARAMETER, P2)
    if not gpr[4]:
        return no_kernel
    if not gpr[5]:
        return no_tree
    if not lpid:
        return PERMISSION
    known = machine.svms.get(lpid)
    if known is not None:
        again = choices.esm_again == DOCUMENTATION
        return SUCCESS if again and known.state is SvmState.SECURE else RETRY
    made = machine.svms[lpid] = Svm(lpid)
    return made


def transition(machine: Machine, svm: Svm, vcpu: Vcpu) -> Work:
    """Everything from UV_ESM on: at its end the guest runs, secure or as it was."""
    kernel, tree = vcpu.gpr[4], vcpu.gpr[5]
    try:
        yield from _Transition(machine, svm).run(kernel, tree)
    except Failed:
        yield from abort(svm, vcpu)
        return
    svm.state = SvmState.SECURE
    machine.set_pate(svm.lpid, SECURE_BIT | svm.lpid << PAGE_SHIFT, machine.pate(svm.lpid)[1])
    vcpu.gpr = [0] * GPRS
    vcpu.gpr[3:6] = [tree, kernel, 0]
    vcpu.nip, vcpu.msr, vcpu.secure = kernel, MSR_SF | MSR_S, True
    vcpu.program.finish(registers(vcpu.gpr, vcpu.nip, vcpu.msr))
    yield from machine.life(svm, vcpu)


def abort(svm: Svm, vcpu: Vcpu) -> Work:
    """H_SVM_INIT_ABORT: the hypervisor resumes the guest itself.

    One that returns to the ultravisor instead gets its guest resumed with that answer: a guess.
    """
    svm.state = SvmState.ABORT
    answer = yield Reflect(HCALL, {3: hcalls.SVM_INIT_ABORT}, own=True)
    assert answer is not None
    vcpu.gpr[3] = answer.gpr[0]


def kill(machine: Machine, svm: Svm, vcpu: Vcpu) -> Work:
    """End an SVM: `ibm,os-term`. One that is not secure yet is aborted."""
    if svm.state is not SvmState.SECURE:
        yield from abort(svm, vcpu)
        return
    block = b"".join(word.to_bytes(4, "big") for word in (hcalls.OS_TERM, 1, 1, 0, 0))
    yield from terminated(machine, svm, block)


def terminated(machine: Machine, svm: Svm, block: bytes) -> Asking:
    """H_RTAS with `ibm,os-term`. Nothing comes back from it."""
    gfn = svm.shared[ARGUMENTS]
    while not (
        yield from bound(machine, svm, gfn)
    ):  # the guest waits for a page to say that it is at its end
        yield SLICE_ENDS
    bounce(machine, svm, gfn, 0, block)
    yield Reflect(HCALL, {3: hcalls.RTAS, 4: gfn << PAGE_SHIFT}, last=True)
    raise Panic(OS_TERM_RETURNED)


def bound(machine: Machine, svm: Svm, gfn: int) -> Generator[Reflect | Wait, Answer | None, bool]:
    """See to it that a page of the ultravisor's own has a frame of the hypervisor's."""
    frame = svm.frame(gfn)
    if frame is None:
        return False
    if machine.secure.page(frame) is Page.SHARED_IMPLICIT_INV:
        yield from page_in(gfn, hcalls.SHARED)
    return svm.frame(gfn) == frame and machine.secure.page(frame) is Page.SHARED_IMPLICIT


def bounce(machine: Machine, svm: Svm, gfn: int, offset: int, data: bytes) -> None:
    """Write into a page of the ultravisor's own that is bound."""
    frame = svm.frame(gfn)
    assert frame is not None
    machine.store(machine.secure.normal_of(frame) + offset, data)


def bounced(machine: Machine, svm: Svm, gfn: int, offset: int, length: int) -> bytes:
    frame = svm.frame(gfn)
    assert frame is not None
    return machine.load(machine.secure.normal_of(frame) + offset, length)


class _Transition:
    """The steps of section 6.1, in their order. Each raises Failed where it cannot go on."""

    def __init__(self, machine: Machine, svm: Svm) -> None:
        self.machine = machine
        self.svm = svm

    def run(self, kernel: int, tree_at: int) -> Work:
        yield from self._ask(hcalls.SVM_INIT_START)
        try:
            yield from self._inside(kernel, tree_at)
        except ValueError as wrong:  # what the guest's or the machine's data say makes no sense
            raise Failed(str(wrong)) from wrong
        yield from self._ask(hcalls.SVM_INIT_DONE)

    def _inside(self, kernel: int, tree_at: int) -> Work:
        yield from self._bring(tree_at, PAGE - tree_at % PAGE)
        size = fdt.total_size(self._read(tree_at, min(64, PAGE - tree_at % PAGE)))
        yield from self._bring(tree_at, size)
        tree, reserved = fdt.unpack(self._read(tree_at, size))
        yield from self._share_own(tree, reserved)
        areas = _areas(tree)
        yield from self._bring(*areas["rtas"])
        for gfn in _gfns(*areas["rtas"]):
            yield from self._share(gfn, Page.PSEUDO_SHARED)
        yield from self._bring(*areas["initrd"])
        yield from self._bring(*areas["blob"])
        sealed, _ = fdt.unpack(self._read(*areas["blob"]))
        expected = blob.unsealed(sealed, (yield from self._unseal(sealed)))
        yield from self._bring(kernel, expected.kernel_length)
        if self.machine.profile.choices.esm_pagein == "all":
            yield from self._bring_all()
        parts = {
            "rtas": self._read(*areas["rtas"]),
            "kernel": self._read(kernel, expected.kernel_length),
            "initrd": self._read(*areas["initrd"]),
            "cmdline": tree.child("chosen").data("bootargs").rstrip(b"\0"),
        }
        if blob.measure(parts) != dict(expected.digests):  # all four, whichever is wrong
            raise Failed("a digest differs")
        self.svm.files = dict(expected.files)

    # -- what the hypervisor is asked ------------------------------------------------------------------------

    def _ask(self, number: int) -> Asking:
        answer = yield from hypercall(number)
        if answer.status != SUCCESS:
            raise Failed(f"{hcalls.name_of(number)}: {answer.status}")

    def _bring(self, gpa: int, length: int) -> Asking:
        """Page in a range, each page once."""
        for gfn in _gfns(gpa, length):
            if gfn not in self.svm.paged_in:
                yield from self._bring_one(gfn)

    def _bring_one(self, gfn: int) -> Asking:
        if self.svm.frame(gfn) is None:
            raise Failed(f"{gfn:#x} lies in no slot")
        self.svm.paged_in.add(gfn)
        if (yield from page_in(gfn, hcalls.NONSHARED)) != SUCCESS:
            raise Failed(f"{gfn:#x} cannot be paged in")

    def _bring_all(self) -> Asking:
        own = set(self.svm.shared.values())
        for gfn, _ in list(self.svm.gfns()):
            if gfn not in own and gfn not in self.svm.paged_in:
                yield from self._bring_one(gfn)

    def _share(self, gfn: int, then: Page) -> Asking:
        """Let the hypervisor give a normal frame for a page of the ultravisor's own use."""
        frame = self._frame(gfn)
        secure = self.machine.secure
        secure.become(frame, Page.HV_SHARING)
        status = yield from page_in(gfn, hcalls.SHARED)
        if status != SUCCESS or self._frame(gfn) != frame:
            raise Failed(f"{gfn:#x} cannot be shared")
        page = secure.page(frame)
        if page is Page.HV_SHARED:
            secure.become(frame, then)
        elif page is Page.HV_SHARED_INV:
            secure.become(frame, Page(then + 1))  # the state with _INV
        else:
            raise Failed(f"{gfn:#x} was not shared")

    def _share_own(self, tree: fdt.Node, reserved: list[tuple[int, int]]) -> Asking:
        """Find room for the ultravisor's own pages and share them."""
        for use, gfn in zip(USES, self._room(tree, reserved), strict=True):
            self.svm.shared[use] = gfn
            yield from self._share(gfn, Page.SHARED_IMPLICIT)

    def _room(self, tree: fdt.Node, reserved: list[tuple[int, int]]) -> list[int]:
        """The highest pages of the memory node that nothing reserves, ascending."""
        reg = tree.child("memory").data("reg")
        if len(reg) != 16:
            raise Failed("no memory")
        base, size = int.from_bytes(reg[:8], "big"), int.from_bytes(reg[8:], "big")
        taken = [(at >> PAGE_SHIFT, -(-(at + length) // PAGE)) for at, length in reserved]
        found = list(islice(_free(base >> PAGE_SHIFT, (base + size) >> PAGE_SHIFT, taken), len(USES)))
        if len(found) < len(USES):
            raise Failed("no room for the ultravisor's own pages")
        return found[::-1]

    def _unseal(self, sealed: fdt.Node) -> Generator[Reflect | Wait, Answer | None, bytes]:
        """The TPM exchange: two commands, and the end. Raises Failed or ValueError."""
        session = tpm.Session(self.machine.tpm.public, self.machine.random)
        lockbox = blob.lockbox_for(sealed, self.machine.tpm.public)
        started = yield from self._tpm(session.start)
        answer = yield from self._tpm(session.unseal(started, lockbox))
        yield from hypercall(hcalls.SVM_TPM_COMM, hcalls.TPM_CLOSE)
        return session.opened(answer)

    def _tpm(self, command: bytes) -> Generator[Reflect | Wait, Answer | None, bytes]:
        gfn = self.svm.shared[TPM]
        if not (yield from bound(self.machine, self.svm, gfn)):
            raise Failed("the TPM's bounce buffer is gone")
        bounce(self.machine, self.svm, gfn, 0, command)
        at = gfn << PAGE_SHIFT
        answer = yield from hypercall(
            hcalls.SVM_TPM_COMM, hcalls.TPM_EXECUTE, at, len(command), at + TPM_ANSWER, tpm.BUFFER
        )
        size = answer.gpr[4]
        if (
            answer.status != SUCCESS
            or size > tpm.BUFFER
            or not (yield from bound(self.machine, self.svm, gfn))
        ):
            raise Failed(f"H_SVM_TPM_COMM: {answer.status}")
        return bounced(self.machine, self.svm, gfn, TPM_ANSWER, size)

    # -- guest memory ----------------------------------------------------------------------------------------

    def _frame(self, gfn: int) -> int:
        frame = self.svm.frame(gfn)
        if frame is None:
            raise Failed(f"{gfn:#x} lies in no slot")
        return frame

    def _read(self, gpa: int, length: int) -> bytes:
        parts = []
        while length > 0:
            n = min(length, PAGE - gpa % PAGE)
            parts.append(self.machine.secure.read(self._frame(gpa >> PAGE_SHIFT), gpa % PAGE, n))
            gpa, length = gpa + n, length - n
        return b"".join(parts)


def _gfns(gpa: int, length: int) -> Iterator[int]:
    if not 0 <= length <= MEASURED_BYTES:
        raise Failed(f"an area of {length:#x} bytes")
    return iter(range(gpa >> PAGE_SHIFT, -(-(gpa + length) // PAGE)))


def _free(first: int, end: int, taken: list[tuple[int, int]]) -> Iterator[int]:
    """Pages of a range that no taken one has, from the highest on.

    The guest says how large its memory is and what is reserved: time goes with the ranges, not with pages.
    """
    for start, stop in sorted(taken, key=itemgetter(1), reverse=True):
        yield from range(end - 1, max(stop, first) - 1, -1)
        end = min(end, start)
    yield from range(end - 1, first - 1, -1)


def _areas(tree: fdt.Node) -> Mapping[str, tuple[int, int]]:
    """(address, length) of what the device tree names. Raises ValueError if it does not."""
    chosen, rtas = tree.child("chosen"), tree.child("rtas")

    def between(name: str) -> tuple[int, int]:
        start, end = chosen.number(f"linux,{name}-start"), chosen.number(f"linux,{name}-end")
        return start, end - start

    return {
        "rtas": (rtas.number("linux,rtas-base"), rtas.number("rtas-size")),
        "initrd": between("initrd"),
        "blob": between("esm-blob"),
    }
