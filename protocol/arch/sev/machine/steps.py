"""One step of a guest's program. Sections 5.4, 5.5 and 5.7 of the fact sheet.

`do` finishes the step at the head of the program and returns None, or returns why the guest has to leave:
then an access that could not be done stays where it is, and the next entry tries again. An exception of the
guest's own CPU is the result of its step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from protocol.arch.sev.books import is_dram
from protocol.arch.sev.cpu import GHCB_MSR, GP, UD, VC, VC_NOT_VALIDATED, X86Fault, fault
from protocol.arch.sev.crypto.keys import BLOCK
from protocol.arch.sev.guest import Leave, Program, Pvalidate, Rdmsr, Read, Rmpadjust, Touch, Wrmsr
from protocol.arch.sev.npt import Leaf, Missing, walk
from protocol.arch.sev.rmp import (
    FAIL_INPUT,
    FAIL_PERMISSION,
    NOT_VALIDATED,
    NPF_ENC,
    NPF_PRESENT,
    NPF_RMP,
    NPF_USER,
    NPF_WRITE,
)
from protocol.arch.sev.structs import (
    C_MASK,
    EXIT_HLT,
    EXIT_NPF,
    EXIT_SHUTDOWN,
    EXIT_VMGEXIT,
    PAGE,
    TWO_MIB,
    Exit,
)
from protocol.memory.physical import chunks

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine
    from protocol.arch.sev.machine.svm import Vcpu

Result = dict[str, Any] | Exit | X86Fault


def do(fw: Machine, vcpu: Vcpu, program: Program) -> Exit | None:
    """Do the step at the head."""
    step = program.steps[0]
    result = _HANDLERS[type(step)](fw, vcpu, step)
    if isinstance(result, Exit):
        if isinstance(step, Leave):
            program.finish({})
        return result
    if isinstance(result, X86Fault):
        result = {"fault": shown(result)}
    program.finish(result)
    return None


def shown(raised: X86Fault) -> dict[str, Any]:
    """An exception as an answer shows it."""
    return {
        "code": hex(raised.code),
        "name": raised.name,
        "error": hex(raised.error),
        "address": hex(raised.address),
        "write": raised.write,
    }


# -- memory --------------------------------------------------------------------------------------------


def _address(fw: Machine, vcpu: Vcpu, gpa: int, write: bool) -> int | Exit | X86Fault:
    """The system physical address behind a guest address that carries the C-bit if it is private."""
    private = bool(gpa & C_MASK) and vcpu.key is not None
    bare = gpa & ~C_MASK if vcpu.key is not None else gpa  # without a key it is a bit like any other
    leaf = _walk(fw, vcpu, bare, write, private)
    if isinstance(leaf, Exit):
        return leaf
    error = _refusal(fw, vcpu, leaf, bare, write, private)
    if error == NOT_VALIDATED:
        return fault(VC, bare, write, VC_NOT_VALIDATED)
    return _npf(error, bare, write) if error else leaf.address


def _walk(fw: Machine, vcpu: Vcpu, gpa: int, write: bool, private: bool) -> Leaf | Exit:
    def read(address: int) -> bytes | None:
        return fw.fetch(address, 8) if is_dram(fw.size, address, 8) else None

    leaf = walk(read, vcpu.vmcb.ncr3, gpa, write)
    enc = NPF_ENC if private else 0
    if isinstance(leaf, Missing):
        return Exit(EXIT_NPF, leaf.error | enc, gpa)
    if not is_dram(fw.size, leaf.address, 1):  # what is no memory is the host's to emulate
        return Exit(EXIT_NPF, NPF_USER | (NPF_WRITE if write else 0) | enc, gpa)
    return leaf


def _refusal(fw: Machine, vcpu: Vcpu, leaf: Leaf, gpa: int, write: bool, private: bool) -> int:
    """What the RMP says. A guest that is not SNP is to it what the hypervisor is."""
    rmp, frame = fw.rmp, leaf.address // PAGE
    if not rmp.live:
        return 0
    if not vcpu.snp:
        return rmp.unprotected_fault(frame, leaf.large, private, write)
    if not private:
        return NPF_RMP if rmp.assigned(frame) else 0
    return rmp.private_fault(frame, leaf.large, vcpu.asid, gpa // PAGE, vcpu.vmpl, write)


def _npf(error: int, gpa: int, write: bool) -> Exit:
    return Exit(EXIT_NPF, error | NPF_PRESENT | NPF_USER | (NPF_WRITE if write else 0), gpa)


def _places(
    fw: Machine, vcpu: Vcpu, gpa: int, length: int, write: bool
) -> list[tuple[int, int]] | Exit | X86Fault:
    """(address, length) of each piece of a range; all of it is looked at before any of it is touched."""
    places = []
    for at, n in chunks(gpa, length):
        address = _address(fw, vcpu, at, write)
        if not isinstance(address, int):
            return address
        places.append((address, n))
    return places


def load(fw: Machine, vcpu: Vcpu, gpa: int, length: int) -> bytes | Exit | X86Fault:
    places = _places(fw, vcpu, gpa, length, write=False)
    if not isinstance(places, list):
        return places
    if vcpu.key is None or not gpa & C_MASK:
        return b"".join(fw.fetch(address, n) for address, n in places)
    parts = []
    for address, n in places:
        first, last = address & ~(BLOCK - 1), -(-(address + n) // BLOCK) * BLOCK
        parts.append(fw.plain(vcpu.key, first, last - first)[address - first :][:n])
    return b"".join(parts)


def store(fw: Machine, vcpu: Vcpu, gpa: int, data: bytes) -> Exit | X86Fault | None:
    places = _places(fw, vcpu, gpa, len(data), write=True)
    if not isinstance(places, list):
        return places
    done = 0
    for address, n in places:
        piece = data[done : done + n]
        if vcpu.key is None or not gpa & C_MASK:
            fw.deposit(address, piece)
        else:
            first, last = address & ~(BLOCK - 1), -(-(address + n) // BLOCK) * BLOCK
            block = bytearray(fw.plain(vcpu.key, first, last - first))
            block[address - first : address - first + n] = piece
            fw.seal(vcpu.key, first, bytes(block))
        done += n
    return None


def _touch(fw: Machine, vcpu: Vcpu, step: Touch) -> Result:
    if step.write:
        left = store(fw, vcpu, step.gpa, step.value)
        return {} if left is None else left
    data = load(fw, vcpu, step.gpa, 1)
    return {} if isinstance(data, bytes) else data


def _read(fw: Machine, vcpu: Vcpu, step: Read) -> Result:
    data = load(fw, vcpu, step.gpa, step.length)
    return {"hex": data.hex()} if isinstance(data, bytes) else data


# -- instructions --------------------------------------------------------------------------------------


def _pvalidate(fw: Machine, vcpu: Vcpu, step: Pvalidate) -> Result:
    """#UD in a guest without SNP, #GP above VMPL0."""
    if not vcpu.snp:
        return fault(UD)
    if vcpu.vmpl:
        return fault(GP)
    large = bool(step.ecx & 1)
    if step.ecx > 1 or step.rax % (TWO_MIB if large else PAGE):
        return {"rax": hex(FAIL_INPUT), "cf": 0}
    leaf = _walk(fw, vcpu, step.rax, True, private=True)
    if isinstance(leaf, Exit):
        return leaf
    error, rax, carry = fw.rmp.pvalidate(
        leaf.address // PAGE, leaf.large, vcpu.asid, step.rax // PAGE, large, bool(step.edx & 1)
    )
    return _npf(error, step.rax, write=True) if error else {"rax": hex(rax), "cf": int(carry)}


def _rmpadjust(fw: Machine, vcpu: Vcpu, step: Rmpadjust) -> Result:
    """Only a less privileged level gets rights, and only own ones; VMPL0 alone makes a page a VMSA."""
    if not vcpu.snp:
        return fault(UD)
    large, target = bool(step.ecx & 1), step.rdx & 0xFF
    if step.ecx > 1 or step.rax % (TWO_MIB if large else PAGE) or target > 3:
        return {"rax": hex(FAIL_INPUT)}
    if target <= vcpu.vmpl or (vcpu.vmpl and step.rdx >> 16 & 1):
        return {"rax": hex(FAIL_PERMISSION)}
    leaf = _walk(fw, vcpu, step.rax, True, private=True)
    if isinstance(leaf, Exit):
        return leaf
    error, rax = fw.rmp.rmpadjust(
        leaf.address // PAGE, leaf.large, vcpu.asid, step.rax // PAGE, large, vcpu.vmpl, step.rdx
    )
    if error == NOT_VALIDATED:
        return fault(VC, step.rax, True, VC_NOT_VALIDATED)
    return _npf(error, step.rax, write=True) if error else {"rax": hex(rax)}


def _wrmsr(fw: Machine, vcpu: Vcpu, step: Wrmsr) -> Result:
    """Only a guest with encrypted registers has the GHCB MSR, and no other is modelled."""
    if step.ecx != GHCB_MSR or not vcpu.es:
        return fault(GP)
    vcpu.ghcb = step.value
    return {}


def _rdmsr(fw: Machine, vcpu: Vcpu, step: Rdmsr) -> Result:
    if step.ecx != GHCB_MSR or not vcpu.es:
        return fault(GP)
    return {"rax": hex(vcpu.ghcb & 0xFFFF_FFFF), "rdx": hex(vcpu.ghcb >> 32)}


def _leave(fw: Machine, vcpu: Vcpu, step: Leave) -> Result:
    if step.what == "shutdown":
        return Exit(EXIT_SHUTDOWN)
    if step.what == "vmgexit":
        return Exit(EXIT_VMGEXIT) if vcpu.es else fault(UD)
    return fault(VC, error=EXIT_HLT) if vcpu.es else Exit(EXIT_HLT)


_HANDLERS: dict[type, Callable[..., Result]] = {
    Touch: _touch,
    Read: _read,
    Pvalidate: _pvalidate,
    Rmpadjust: _rmpadjust,
    Wrmsr: _wrmsr,
    Rdmsr: _rdmsr,
    Leave: _leave,
}
