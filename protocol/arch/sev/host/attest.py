"""An SNP guest proves what it is: a report that the secure processor signs, asked for through the host.

Section 6.6 of the fact sheet. The guest has its message key from its secrets page, seals its request, puts it
into memory that it shares, and asks by VMGEXIT. KVM copies the page in, hands it to the firmware with
SNP_GUEST_REQUEST, and copies the response out. The host carries ciphertext alone: what is opened and sealed
here is what the guest's own code does, which this program has to play.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from protocol.arch.sev.crypto import message as messages
from protocol.arch.sev.guest import Leave, Read, Touch
from protocol.arch.sev.host.vm import (
    REQUEST_EVENT,
    SW_EXITCODE,
    SW_EXITINFO1,
    SW_EXITINFO2,
    GuestFailed,
    Vm,
    run,
)
from protocol.arch.sev.structs import C_MASK, PAGE, SNP_REPORT_LEN, U64
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host

BUFFERS = REQUEST_PAGE, RESPONSE_PAGE = 3, 4  # pages of the guest's that no image and no plan uses
KEY_AT, KEY_LEN = 0x20, 32  # VMPCK0 in the secrets page
REPORT_REQUEST = 0x60
REPORT_AT = 0x20  # in the payload of a response: status and size come first


def report_data(guest: int, number: int) -> bytes:
    """What the owner asked the guest to have in its report the `number`-th time."""
    return hashlib.sha512(f"evidence:{guest}:{number}".encode()).digest()


def report(host: Host, vm: Vm, vcpu: int, number: int) -> Step[bytes]:
    """The report as the guest has it in the end; its buffers are shared by then. Raises GuestFailed."""
    yield from run(host, vm, vcpu, [Read(vm.secrets + KEY_AT | C_MASK, KEY_LEN)])
    key = host.heard
    payload = report_data(vm.number, number).ljust(REPORT_REQUEST, b"\0")
    request, response, ghcb = REQUEST_PAGE * PAGE, RESPONSE_PAGE * PAGE, vm.ghcb(vcpu)
    asked = (
        Touch(request, True, messages.seal(key, messages.REPORT_REQ, vm.sequence, 0, payload)),
        Touch(ghcb + SW_EXITINFO1, True, U64.pack(request) + U64.pack(response)),
        Touch(ghcb + SW_EXITCODE, True, U64.pack(REQUEST_EVENT)),
        Leave("vmgexit"),
    )
    yield from run(host, vm, vcpu, [*asked, Read(response, PAGE)])
    vm.sequence += 2
    answer = messages.Message.unpack(host.heard)
    opened = answer.open(key) if answer is not None else None
    if answer is None or opened is None or answer.sequence != vm.sequence - 1 or any(opened[:4]):
        raise GuestFailed(f"guest {vm.number} got no report")
    return opened[REPORT_AT : REPORT_AT + SNP_REPORT_LEN]


def answer(host: Host, vm: Vm, ghcb: int) -> Step[None]:
    """What KVM does: copy in, ask, copy out. The response page stays the firmware's all along."""
    driver = host.driver
    request, response = (U64.unpack(driver.read(ghcb + at, 8))[0] for at in (SW_EXITINFO1, SW_EXITINFO2))
    source, target = vm.shared.get(request // PAGE), vm.shared.get(response // PAGE)
    if source is None or target is None or request % PAGE or response % PAGE or request == response:
        raise GuestFailed(f"guest {vm.number} asks with {request:#x} for an answer in {response:#x}")
    bounce = host.page()
    driver.write(bounce, driver.read(source, PAGE))
    yield from driver.command("SNP_GUEST_REQUEST", gctx=vm.context, req=bounce, resp=vm.response)
    driver.write(target, driver.read(vm.response, PAGE))
    driver.write(ghcb + SW_EXITINFO2, U64.pack(0))
    host.give([bounce])
