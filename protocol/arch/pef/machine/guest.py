"""A vcpu of an SVM, one step after another.

Accesses by page state, hypercalls by reflection, its own ultracalls.

Section 7 of the fact sheet says who takes which exception first. An access that cannot be completed is
tried again; where that goes on without end the guest's time slice ends now and then, so that its hypervisor
stays in charge.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import (
    DATA_STORAGE,
    EMULATION_ASSIST,
    EXTERNAL,
    HCALL,
    INSTRUCTION_STORAGE,
    PROGRAM,
    Vcpu,
)
from protocol.arch.pef.guest import Fetch, GuestStep, Hypercall, Interrupt, Read, Touch, Ultracall, registers
from protocol.arch.pef.machine import files, lifecycle, sharing
from protocol.arch.pef.machine.normal import LOADED, NO_TRANSLATION, STORE, pieces
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.machine.upcall import SLICE_ENDS, WAIT, Answer, Reflect, Wait, Work, page_in
from protocol.arch.pef.profiles import FIRMWARE
from protocol.arch.pef.status import FUNCTION, SUCCESS, unsigned
from protocol.arch.pef.tables import IMPLICIT as IMPLICITLY_SHARED
from protocol.arch.pef.tables import MSR_EE, OWN_FRAME, PAGE, PAGE_SHIFT, Page

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

VCPUS = 2048  # of a VM
TRIES = 4  # page-ins of one access in a row before the time slice ends

NAMES = {0x200: "machine check", 0x300: "data storage", 0x400: "instruction storage", PROGRAM: "program"}

Result = dict[str, Any]


class Taken(Exception):
    """The guest's own CPU takes an interrupt instead of completing. It never leaves `life`."""

    def __init__(self, vector: int) -> None:
        self.vector = vector

    def result(self) -> Result:
        return {"fault": {"code": hex(self.vector), "name": NAMES.get(self.vector, "interrupt")}}


def life(machine: Machine, svm: Svm, vcpu: Vcpu) -> Work:
    """What a secure vcpu does from now on."""
    while True:
        step = vcpu.program.next()  # another object may come with a UV_RETURN: the same steps, from elsewhere
        if step is None:
            yield WAIT
            continue
        vcpu.program.issued = True  # the ultravisor goes on where it was, whatever happens in between
        try:
            result = yield from _do(machine, svm, vcpu, step)
        except Taken as taken:
            result = taken.result()
        if not isinstance(step, Interrupt):
            vcpu.nip += 4
            vcpu.program.finish(result)


def _do(
    machine: Machine, svm: Svm, vcpu: Vcpu, step: GuestStep
) -> Generator[Reflect | Wait, Answer | None, Result]:
    if isinstance(step, Ultracall):
        return (yield from _ultracall(machine, svm, vcpu, step))
    if isinstance(step, Hypercall):
        return (yield from _hypercall(machine, svm, vcpu, step))
    if isinstance(step, Interrupt):
        return (yield from _interrupt(machine, svm, vcpu, step.vector))
    if isinstance(step, Touch) and step.write:
        yield from access(machine, svm, vcpu, step.gpa, len(step.value), step.value)
        return {}
    if isinstance(step, Fetch):
        yield from access(machine, svm, vcpu, step.gpa, 4, fetch=True)
        return {}
    if isinstance(step, Read):
        data = yield from access(machine, svm, vcpu, step.gpa, step.length)
        return {"hex": data.hex()}
    data = yield from access(machine, svm, vcpu, step.gpa, LOADED)
    return {"value": data.hex()}


def _interrupt(
    machine: Machine, svm: Svm, vcpu: Vcpu, vector: int
) -> Generator[Reflect | Wait, Answer | None, Result]:
    """An interrupt that comes now. The step is over with it."""
    if vector == EMULATION_ASSIST:
        vcpu.program.finish({})
        yield from lifecycle.kill(machine, svm, vcpu)
    vcpu.program.finish({})
    if vector != EXTERNAL:
        yield Reflect(vector)
    return {}


# -- calls -------------------------------------------------------------------------------------------------


def _ultracall(
    machine: Machine, svm: Svm, vcpu: Vcpu, step: Ultracall
) -> Generator[Reflect | Wait, Answer | None, Result]:
    gpr = vcpu.gpr = list(step.gpr)
    call = gpr[3]
    machine.native(call)
    status = front.refusal(call, front.Context(hv=False, pr=step.problem, s=True), machine.profile.choices)
    if status is None and call == front.ESM:
        again = lifecycle.accept(machine, vcpu.lpid, gpr)
        assert isinstance(again, int), "an SVM has an object"
        status = again
    elif status is None and call == front.ESMB_GET_FILE:
        status = files.get_file(svm, vcpu.pidr, gpr)
    elif status is None and call == front.SHARE_PAGE:
        status = yield from sharing.share(machine, svm, gpr[4], gpr[5])
    elif status is None and call == front.UNSHARE_PAGE:
        status = yield from sharing.unshare(machine, svm, gpr[4], gpr[5])
    elif status is None:
        status = yield from sharing.unshare_all(machine, svm)
    gpr[3] = unsigned(status)
    return registers(gpr, vcpu.nip + 4, vcpu.msr)


def _hypercall(
    machine: Machine, svm: Svm, vcpu: Vcpu, step: Hypercall
) -> Generator[Reflect | Wait, Answer | None, Result]:
    gpr = vcpu.gpr = list(step.gpr)
    number = gpr[3]
    if number == hcalls.RANDOM:  # never reflected: nobody can influence it
        if machine.profile.choices.random == FIRMWARE:
            gpr[3] = unsigned(FUNCTION)
        else:
            gpr[3], gpr[4] = SUCCESS, machine.random.getrandbits(64)
        return registers(gpr, vcpu.nip + 4, vcpu.msr)
    if number == hcalls.RTAS:
        answer = yield from _rtas(machine, svm, vcpu, gpr[4])
    else:
        if number == hcalls.CEDE:
            vcpu.msr |= MSR_EE
        shown = {name: gpr[name] for name in hcalls.inputs(number)}
        reply = yield Reflect(HCALL, {3: number, **shown})
        assert reply is not None
        answer = reply
    gpr[3] = answer.gpr[0]
    gpr[4:13] = answer.gpr[4:13]
    if answer.vector:  # the hypercall is over, and its handler begins
        return registers(gpr, answer.vector, vcpu.msr & ~MSR_EE)
    return registers(gpr, vcpu.nip + 4, vcpu.msr)


def _rtas(
    machine: Machine, svm: Svm, vcpu: Vcpu, block: int
) -> Generator[Reflect | Wait, Answer | None, Answer]:
    """H_RTAS through the ultravisor's own buffer: the hypervisor never sees the guest's."""
    arguments = yield from access(machine, svm, vcpu, block, hcalls.RTAS_BLOCK)
    if int.from_bytes(arguments[:4], "big") == hcalls.OS_TERM:
        yield from lifecycle.terminated(machine, svm, arguments)
    gfn = svm.shared[lifecycle.ARGUMENTS]
    while not (yield from lifecycle.bound(machine, svm, gfn)):
        yield SLICE_ENDS
    lifecycle.bounce(machine, svm, gfn, 0, arguments)
    answer = yield Reflect(HCALL, {3: hcalls.RTAS, 4: gfn << PAGE_SHIFT})
    assert answer is not None
    if (yield from lifecycle.bound(machine, svm, gfn)):
        done = lifecycle.bounced(machine, svm, gfn, 0, hcalls.RTAS_BLOCK)
        yield from access(machine, svm, vcpu, block, len(done), done)
        if answer.status == SUCCESS:
            _note_start(svm, arguments, done)
    return answer


def _note_start(svm: Svm, asked: bytes, done: bytes) -> None:
    """`start-cpu` succeeded: that vcpu is secure as soon as the hypervisor lets it begin.

    How the firmware does it is not published; that it has to is sure.
    """
    words = [int.from_bytes(asked[at : at + 4], "big") for at in range(0, 24, 4)]
    result = hcalls.RTAS_HEAD + 4 * 3
    if words[:3] != [hcalls.START_CPU, 3, 1] or words[3] >= VCPUS:
        return
    if not any(done[result : result + 4]):
        svm.starting[words[3]] = words[4], words[5]


# -- accesses ----------------------------------------------------------------------------------------------


def access(
    machine: Machine,
    svm: Svm,
    vcpu: Vcpu,
    gpa: int,
    length: int,
    data: bytes | None = None,
    fetch: bool = False,
) -> Generator[Reflect | Wait, Answer | None, bytes]:
    """A load, or a store of `data`, in order. Raises Taken."""
    parts = []
    done = 0
    for at, n in pieces(gpa, length):
        part = None if data is None else data[done : done + n]
        parts.append((yield from _piece(machine, svm, vcpu, at, n, part, fetch)))
        done += n
    return b"".join(parts)


def _piece(
    machine: Machine, svm: Svm, vcpu: Vcpu, at: int, n: int, data: bytes | None, fetch: bool
) -> Generator[Reflect | Wait, Answer | None, bytes]:
    """The same within one page."""
    tries = 0
    while True:
        frame = svm.frame(at >> PAGE_SHIFT)
        if frame is None and not fetch:
            return (yield from _uncached(at, n, data))
        page = Page.SHARED_INV if frame is None else machine.secure.page(frame)
        if frame is not None and page in OWN_FRAME:
            return _secure(machine, frame, at, n, data)
        if frame is None or (page is Page.SHARED_INV and not fetch):
            yield from _reflected(at, data is not None, fetch)
        elif page is Page.SHARED and not fetch:
            return _shared(machine, frame, at, n, data)
        elif page in IMPLICITLY_SHARED:
            yield from lifecycle.kill(machine, svm, vcpu)
        elif page is Page.PAGEDOUT:
            status = yield from page_in(at >> PAGE_SHIFT, hcalls.NONSHARED)
            tries += status != SUCCESS
            if tries == TRIES:
                tries = 0
                yield SLICE_ENDS
        else:  # another vcpu is changing it, or it can hold no code: the CPU tries again and again
            yield SLICE_ENDS


def _secure(machine: Machine, frame: int, at: int, n: int, data: bytes | None) -> bytes:
    if data is None:
        return machine.secure.read(frame, at % PAGE, n)
    machine.secure.write(frame, at % PAGE, data)
    return b""


def _shared(machine: Machine, frame: int, at: int, n: int, data: bytes | None) -> bytes:
    real = machine.secure.normal_of(frame) + at % PAGE
    if data is None:
        return machine.load(real, n)
    machine.store(real, data)
    return b""


def _reflected(at: int, write: bool, fetch: bool) -> Generator[Reflect | Wait, Answer | None, None]:
    """A storage interrupt that the hypervisor gets to see, with no more of the address than the page."""
    page = at & -PAGE
    if fetch:
        answer = yield Reflect(INSTRUCTION_STORAGE, asdr=page)
    else:
        cause = NO_TRANSLATION | (STORE if write else 0)
        answer = yield Reflect(DATA_STORAGE, hdar=page, hdsisr=cause, asdr=page)
    assert answer is not None
    if answer.vector:
        raise Taken(answer.vector)


def _uncached(at: int, n: int, data: bytes | None) -> Generator[Reflect | Wait, Answer | None, bytes]:
    """A load or store where no slot is: the ultravisor decodes it and asks by a hypercall."""
    out = b""
    done = 0
    while done < n:
        size = next(size for size in (8, 4, 2, 1) if size <= n - done and (at + done) % size == 0)
        if data is None:
            registers_of = {3: hcalls.CI_LOAD, 4: size, 5: at + done}
        else:
            value = int.from_bytes(data[done : done + size], "big")
            registers_of = {3: hcalls.CI_STORE, 4: size, 5: at + done, 6: value}
        answer = yield Reflect(HCALL, registers_of)
        assert answer is not None
        if answer.vector or answer.status != SUCCESS:
            raise Taken(answer.vector or 0x300)
        if data is None:
            out += (answer.gpr[4] & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        done += size
    return out
