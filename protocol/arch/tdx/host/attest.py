"""A TD proves what it is: a report of its own, and a quote that its host's VMM has made of it. Section 6.7.

The guest has its owner's nonce, asks the module for a report over it (TDG.MR.REPORT, no exit), puts the
report into memory that it shares, and asks for a quote (TDVMCALL GetQuote): an exit that the VMM answers,
with the help of the machine's quoting enclave. The buffer is that of the Guest-Host Communication
Interface: version, status, length in, length out, data.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import TYPE_CHECKING

from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Read, Tdcall, Touch
from protocol.arch.tdx.host.vm import GET_QUOTE, SHARED_BIT, Vm, run
from protocol.arch.tdx.structs import REPORT_DATA_SIZE, REPORT_SIZE
from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.memory.store import PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.tdx.host.system import Host

# Pages of the guest's that no image and no plan uses: the nonce and the report, and the shared buffer.
OWN_PAGE, BUFFER_PAGES = 2, (3, 4)
NONCE_AT, REPORT_AT = OWN_PAGE * PAGE, OWN_PAGE * PAGE + REPORT_SIZE
BUFFER_AT, BUFFER_SIZE = BUFFER_PAGES[0] * PAGE | SHARED_BIT, len(BUFFER_PAGES) * PAGE
BUFFER = Struct("<QQII")  # version, status, length in, length out
VERSION, DONE, FAILED = 1, 0, 0x8000_0000_0000_0000
MR_REPORT, VP_VMCALL = 4, 0
R10_TO_R15 = 0xFC00


def nonce(guest: int, number: int) -> bytes:
    """What the owner asked the guest to have in its evidence the `number`-th time."""
    return hashlib.sha512(f"evidence:{guest}:{number}".encode()).digest()[:REPORT_DATA_SIZE]


def report_steps(data: bytes) -> list[Touch | Tdcall | Read]:
    """The guest asks for a report over `data` and looks at it."""
    ask = registers(rax=MR_REPORT, rcx=REPORT_AT, rdx=NONCE_AT)
    return [Touch(NONCE_AT, True, data), Tdcall(tuple(ask)), Read(REPORT_AT, REPORT_SIZE)]


def quote_steps(report: bytes) -> list[Touch | Tdcall | Read]:
    """The guest shares its report and asks for a quote of it."""
    asked = BUFFER.pack(VERSION, 0, len(report), 0) + report
    call = registers(rax=VP_VMCALL, rcx=R10_TO_R15, r11=GET_QUOTE, r12=BUFFER_AT, r13=BUFFER_SIZE)
    read = [Read(BUFFER_AT + at, PAGE) for at in range(0, BUFFER_SIZE, PAGE)]
    return [Touch(BUFFER_AT, True, asked), Tdcall(tuple(call)), *read]


def evidence(host: Host, vm: Vm, vcpu: int, number: int) -> Step[bytes]:
    """The quote, as the guest has it in the end. Raises OperationFailed if its host could make none."""
    yield from run(host, vm, vcpu, report_steps(nonce(vm.number, number)))
    report = host.heard[-1]
    yield from run(host, vm, vcpu, quote_steps(report), ("tdvmcall",))
    answer = b"".join(host.heard)
    _, status, _, length = BUFFER.unpack_from(answer)
    if status != DONE:
        raise OperationFailed(f"guest {vm.number} got no quote: status {status:#x}")
    return answer[BUFFER.size : BUFFER.size + length]


def answer(host: Host, vm: Vm, gpa: int, size: int) -> None:
    """What the VMM does for GetQuote: read the buffer, have a quote made, write it there."""
    first = (gpa & ~SHARED_BIT) >> PAGE_SHIFT
    under = [vm.shared.get(first + number) for number in range(size >> PAGE_SHIFT)]
    status, quote, report = FAILED, b"", b""
    pages = [page for page in under if page is not None]
    if not pages or len(pages) < len(under) or gpa % PAGE:
        raise OperationFailed(f"guest {vm.number} asks for a quote in {gpa:#x}, {size} bytes")
    data = b"".join(host.load(page, PAGE) for page in pages)
    version, _, length, _ = BUFFER.unpack_from(data)
    if version == VERSION and length <= len(data) - BUFFER.size:
        report = data[BUFFER.size : BUFFER.size + length]
        try:
            quote = host.quoting.quote(report)
            status = DONE if len(quote) <= len(data) - BUFFER.size else FAILED
        except ValueError:
            status = FAILED
    made = (BUFFER.pack(VERSION, status, length, len(quote)) + quote).ljust(len(data), b"\0")[: len(data)]
    for number, page in enumerate(pages):
        host.module.write(page, made[number * PAGE : (number + 1) * PAGE])
