"""Every exception, intercept and generic code that the sheet names, once each, and at every depth.

Their rules are held by the other files; here it is held that none of the names is missing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from driver import Json
from s390_blocks import GIB, MIB, PAGE, uvcb
from s390_field import AddressSpace, Exit, Host
from s390_guest import FREE, IMAGE_AT, SIE_IICTL, SecureGuest, boot_guest

AT = 0x30_0000
NORMAL_STEP: Json = {"exit": "diag", "code": "0x44"}
INVALID = 0x20


# -- sections 5.5 and 8.4: exceptions that end an access of the host, or SIE ------------------------------


def of_a_table(host: Host, kind: int) -> int:
    """A home space whose table of this kind has no valid entry."""
    top = host.alloc(2048 * 8)
    host.write(top, INVALID.to_bytes(8, "big") * 2048)
    host.control(cr13=top | 0x100 | kind << 2 | 3)
    return host.fault("read", addr=hex(AT), len=8, space="home").code


def of_a_page(host: Host, op: str, spoil: Callable[[AddressSpace], None], at: int = AT) -> int:
    space = AddressSpace(host)
    space.map(AT, host.alloc())
    host.control(cr13=space.asce)
    spoil(space)
    more: Json = {"len": 8} if op == "read" else {"hex": "00" * 8}
    return host.fault(op, addr=hex(at), space="home", **more).code


def protect(space: AddressSpace) -> None:
    space.map(AT, space.target(AT), protect=True)


def lead_outside(space: AddressSpace) -> None:
    space.host.put(space.page_entry(AT), 2200 * MIB)


def malform(space: AddressSpace) -> None:
    space.host.put(space.segment_entry(AT), space.host.get(space.segment_entry(AT)) | 0x0C)


def as_it_is(space: AddressSpace) -> None:
    pass


def problem_state(host: Host) -> int:
    host.cpu(problem_state=True)
    return host.uvc_fault(uvcb("query")).code


def secure_page(host: Host) -> int:
    return host.fault("read", addr=hex(boot_guest(host).secure_page(FREE)), len=8).code


def non_secure(host: Host) -> int:
    guest = boot_guest(host)
    guest.back(FREE)
    return guest.run_fault({"touch": hex(FREE)}).code


def wrong_address(host: Host) -> int:
    guest = boot_guest(host)
    guest.space.map(FREE + PAGE, guest.secure_page(FREE))
    return guest.run_fault({"touch": hex(FREE + PAGE)}).code


EXCEPTIONS: dict[int, Callable[[Host], int]] = {
    0x02: problem_state,
    0x04: lambda host: of_a_page(host, "write", protect),
    0x05: lambda host: of_a_page(host, "read", lead_outside),
    0x06: lambda host: host.uvc_fault(uvcb("query"), m3=1).code,
    0x10: lambda host: of_a_table(host, 0),
    0x11: lambda host: of_a_page(host, "read", as_it_is, AT + PAGE),
    0x12: lambda host: of_a_page(host, "read", malform),
    0x38: lambda host: of_a_page(host, "read", as_it_is, 2 * GIB),
    0x39: lambda host: of_a_table(host, 3),
    0x3A: lambda host: of_a_table(host, 2),
    0x3B: lambda host: of_a_table(host, 1),
    0x3D: secure_page,
    0x3E: non_secure,
    0x3F: wrong_address,
}


@pytest.mark.parametrize("code", EXCEPTIONS, ids=hex)
def test_every_exception_is_raised(host: Host, code: int) -> None:
    assert EXCEPTIONS[code](host) == code


# -- section 5.4: how a guest leaves SIE ----------------------------------------


def left_by(*steps: Json) -> Callable[[Host], int]:
    return lambda host: boot_guest(host).run(*steps).code


def kicked(host: Host) -> int:
    host.ok("enter", vcpu=hex(boot_guest(host).sie), stay=True)
    return Exit.read(host.ok("kick", cpu=0)).code


def not_secure(host: Host) -> int:
    guest, sie = boot_guest(host), host.alloc()
    host.put(sie + 0x88, 2 * MIB - 1)
    host.ok("guest", vcpu=hex(sie), do=[NORMAL_STEP])
    host.control(cr1=guest.space.asce)
    return host.enter(sie).code


def wrong_block(host: Host) -> int:
    guest = boot_guest(host)
    host.put(guest.sie + SIE_IICTL, 1, 1)
    return guest.enter().code


def prefix_gone(host: Host) -> int:
    guest = boot_guest(host)
    host.call("convert_from", paddr=guest.space.target(0)).done()
    return guest.enter().code


INTERCEPTS: dict[int, Callable[[Host], int]] = {
    0x00: kicked,
    0x04: not_secure,
    0x08: left_by({"exit": "loop"}),
    0x1C: left_by(),
    0x20: wrong_block,
    0x60: left_by({"exit": "lctl", "cr": 14}),
    0x64: left_by({"exit": "lctl", "cr": 6}),
    0x68: left_by({"exit": "diag", "code": "0x500"}),
    0x6C: left_by(NORMAL_STEP),
    0x70: prefix_gone,
}


@pytest.mark.parametrize("code", INTERCEPTS, ids=hex)
def test_every_intercept_is_met(host: Host, code: int) -> None:
    assert INTERCEPTS[code](host) == code


# -- program interruptions of the guest itself ----------------------------------------

INTERRUPTIONS: dict[int, Json] = {
    0x02: {"cpu": {"problem_state": True}},
    0x05: {"touch": hex(1 << 40)},
    0x06: {"call": {"r2": hex(IMAGE_AT), "m3": 1}},
}


@pytest.mark.parametrize("code", [*INTERRUPTIONS, 0x15], ids=hex)
def test_every_interruption_reaches_the_guest(host: Host, code: int) -> None:
    guest: SecureGuest = boot_guest(host)
    if code == 0x15:  # the host's doing, as the outcome of the hypercall
        guest.run({"exit": "diag", "code": "0x500"})
        host.put(guest.sie + SIE_IICTL, 0x11, 1)
        assert guest.enter().steps == [{"pgm": "0x15"}]
        return
    steps = [INTERRUPTIONS[code], *([NORMAL_STEP] if code == 0x02 else [])]
    assert guest.run(*steps).steps[-1] == {"pgm": f"{code:#04x}"}


# -- section 3.3: what any call may answer ----------------------------------------


def test_every_generic_code_is_answered(raw: Host) -> None:
    """0x0007 is a name without a rule, 0x0000 no answer at all; no call here is ever partial (cc 3)."""
    answered = {raw.uvc(uvcb("share")).rc, raw.call("verify", handle=1).rc}
    answered |= {raw.query(0xA8).rc, raw.query().rc, raw.query(0xA0).rc}
    raw.init()
    answered |= {raw.call("verify", handle=1).rc, raw.call("destroy_cpu", handle=1).rc}
    assert answered == {0x0001, 0x0002, 0x0003, 0x0005, 0x0020, 0x0021, 0x0100}
