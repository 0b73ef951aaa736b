"""What a host may inject, what it finds in the block, and what an entry that is refused leaves alone."""

from __future__ import annotations

import pytest
from driver import Json
from s390_blocks import EMULATE, MIB, NOTIFY, PAGE, SECURE, VALIDITY, WAIT
from s390_field import Exit, Host
from s390_guest import (
    FREE,
    IMAGE_AT,
    SIE_CPU_HANDLE,
    SIE_GPRS,
    SIE_ICPTCODE,
    SIE_IICTL,
    SIE_IPA,
    SIE_SIDA,
    SecureGuest,
    boot_guest,
)

MARK = {"read": hex(IMAGE_AT), "len": 7}
DONE = {"hex": b"this is".hex()}
EXTERNAL, IO, RESTART, MACHINE_CHECK = 2, 3, 4, 1


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest."""
    return boot_guest(host)


def inject(guest: SecureGuest, what: int) -> Exit:
    """Enter with an injection and one step to do."""
    guest.host.put(guest.sie + SIE_IICTL, what, 1)
    return guest.run(MARK)


# -- injection ----------------------------------------


@pytest.mark.parametrize("how", ["wait", "nothing_left"])
@pytest.mark.parametrize("what", [EXTERNAL, IO, RESTART], ids=["external", "io", "restart"])
def test_a_guest_in_an_enabled_wait_takes_interrupts(guest: SecureGuest, how: str, what: int) -> None:
    """console/s390.md: a guest with nothing left to do goes to an enabled wait."""
    left = guest.run(*([{"exit": "wait"}] if how == "wait" else []))
    assert left.code == WAIT
    left = inject(guest, what)
    assert (left.code, left.steps) == (WAIT, [DONE])
    assert guest.host.get(guest.sie + SIE_IICTL, 1) == 0, "the Ultravisor sets it back"


def test_an_interrupt_is_taken_once(guest: SecureGuest) -> None:
    guest.run({"exit": "wait"})
    guest.run({"exit": "diag", "code": "0x500"})
    left = inject(guest, EXTERNAL)
    assert (left.code, left.steps) == (VALIDITY, [])


@pytest.mark.parametrize(
    ("register", "code", "what"),
    [(0, 0x64, EXTERNAL), (6, 0x64, IO), (14, 0x60, MACHINE_CHECK)],
    ids=["external", "io", "machine_check"],
)
def test_a_guest_that_enables_an_interruption_takes_that_one(
    guest: SecureGuest, register: int, code: int, what: int
) -> None:
    """5.4: 0x60 and 0x64, so that the host injects what it holds back; nothing has to be completed."""
    enable: Json = {"exit": "lctl", "cr": register}
    left = guest.run(enable)
    assert (left.code, left.ipa, left.ipb, set(left.gprs)) == (code, 0, 0, {0})
    assert inject(guest, what).steps == [DONE]
    for other in {EXTERNAL, IO, MACHINE_CHECK} - {what}:
        guest.run(enable)
        assert inject(guest, other).code == VALIDITY, "5.3: the guest is not enabled for it"
        guest.host.put(guest.sie + SIE_IICTL, 0, 1)
        assert guest.enter().steps[-1] == DONE
    guest.run(enable)
    assert guest.run(MARK).steps[-1] == DONE, "and the host may inject nothing"


def test_other_control_registers_are_the_guests_own_affair(guest: SecureGuest) -> None:
    left = guest.run({"exit": "lctl", "cr": 1}, {"exit": "lctl", "cr": 13}, MARK)
    assert (left.code, left.steps) == (WAIT, [{}, {}, DONE])


def test_a_guest_that_loops_for_ever_is_intercepted_at_every_entry(guest: SecureGuest) -> None:
    """5.4: 8 means an endless loop of specification exceptions."""
    for _ in range(3):
        left = guest.run({"exit": "loop"})
        assert (left.code, left.steps) == (0x08, [])
    guest.host.ok("guest", vcpu=hex(guest.sie), do=[MARK], replace=True)
    assert guest.enter().steps == [DONE], "a host that gives it something else to do rescues it"


@pytest.mark.parametrize("step", [{"exit": "lctl", "cr": 6}, {"exit": "loop"}], ids=["lctl", "loop"])
def test_control_registers_and_psws_are_privileged(guest: SecureGuest, step: Json) -> None:
    left = guest.run({"cpu": {"problem_state": True}}, step, MARK)
    assert (left.code, left.steps) == (WAIT, [{}, {"pgm": "0x02"}, DONE])


@pytest.mark.parametrize("what", [MACHINE_CHECK, 5, 0x12, 0x80, 0xFF], ids=hex)
def test_what_is_no_injection_is_refused(guest: SecureGuest, what: int) -> None:
    guest.run({"exit": "wait"})
    left = inject(guest, what)
    assert (left.code, left.reason & 0xFF00, left.steps) == (VALIDITY, 0x2000, [])
    guest.host.put(guest.sie + SIE_IICTL, 0, 1)
    assert guest.enter().steps == [DONE]


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({"exit": "diag", "code": "0x288"}, 0x11),
        ({"exit": "diag", "code": "0x8"}, 0x10),
        ({"exit": "wait"}, 0x10),
    ],
    ids=["operand_after_288", "specification_after_another", "specification_after_wait"],
)
def test_a_program_interruption_goes_with_its_instruction_alone(
    guest: SecureGuest, step: Json, what: int
) -> None:
    """5.4: specification after diagnose 0x288 and 0x500, operand after 0x500."""
    guest.run(step)
    left = inject(guest, what)
    assert (left.code, left.steps) == (VALIDITY, [])


def test_a_restart_cannot_be_disabled_but_for_a_notification(guest: SecureGuest) -> None:
    guest.run({"exit": "diag", "code": "0x9c", "r1": 1})
    assert inject(guest, RESTART).code == VALIDITY


# -- a refused entry ----------------------------------------


def test_a_refused_entry_does_not_lose_what_the_host_completes(host: Host, guest: SecureGuest) -> None:
    """5.3: nothing is consumed. The result of a 104 is still there when the block is put right."""
    assert guest.run({"exit": "diag", "code": "0x500"}).code == EMULATE
    host.put(guest.sie + SIE_GPRS + 16, 0xCAFE)
    right = host.get(guest.sie + SIE_CPU_HANDLE)
    host.put(guest.sie + SIE_CPU_HANDLE, right ^ 1)
    left = guest.enter()
    assert (left.code, left.steps) == (VALIDITY, [])
    host.put(guest.sie + SIE_CPU_HANDLE, right)
    host.call("convert_from", paddr=guest.space.target(0)).done()
    assert guest.enter().code == 0x70
    guest.convert_to(0).done()
    assert guest.enter().steps == [{"gprs": {"2": "0xcafe"}}]


@pytest.mark.parametrize("why", ["validity", "prefix", "notify", "emulate", "wait"])
def test_every_exit_is_what_stands_in_the_block(host: Host, guest: SecureGuest, why: str) -> None:
    """console/s390.md, `enter`: the answer, all of it also stored in the SIE block."""
    host.write(guest.sie + SIE_GPRS, bytes(range(128)))
    steps: dict[str, list[Json]] = {
        "notify": [{"exit": "diag", "code": "0x9c", "r1": 1}],
        "emulate": [{"exit": "diag", "code": "0x500"}],
    }
    if why == "validity":
        host.control(cr1=0)
    if why == "prefix":
        host.call("convert_from", paddr=guest.space.target(PAGE)).done()
    left = guest.run(*steps.get(why, []))
    block = host.read(guest.sie, 0x400)
    text = int.from_bytes(block[SIE_IPA : SIE_IPA + 2], "big"), int.from_bytes(block[0x58:0x5C], "big")
    gprs = [int.from_bytes(block[SIE_GPRS + 8 * which :][:8], "big") for which in range(16)]
    assert (block[SIE_ICPTCODE], *text, gprs) == (left.code, left.ipa, left.ipb, left.gprs)


# -- the data area ----------------------------------------


def test_a_service_call_hands_over_its_block(host: Host, guest: SecureGuest) -> None:
    """5.4: what the instruction points to is in the SIDA, as long as its first halfword says."""
    block = (0x40).to_bytes(2, "big") + bytes(range(2, 0x40))
    guest.store(0x8100, block + b"not a part of it")
    host.fill(guest.sida, PAGE, 0)
    left = guest.run({"exit": "sclp", "command": "0x00120001", "gpa": "0x8100"})
    assert (left.code, left.ipa) == (NOTIFY, 0xB220)
    assert host.read(guest.sida, 0x50) == block + bytes(0x10)


@pytest.mark.parametrize("place", ["donated", "secure", "outside"])
def test_a_data_area_that_is_not_the_hosts_keeps_the_guest_out(
    host: Host, guest: SecureGuest, place: str
) -> None:
    """Found before anything has run; the reason is not known."""
    right = host.get(guest.sie + SIE_SIDA)
    secure = guest.secure_page(FREE)
    wrong = {"donated": guest.plan["base"], "secure": secure, "outside": 2200 * MIB}[place]
    host.put(guest.sie + SIE_SIDA, wrong)
    left = guest.run(MARK, {"exit": "spx", "prefix": "0x0"})
    assert (left.code, left.steps) == (VALIDITY, [])
    host.put(guest.sie + SIE_SIDA, right)
    left = guest.enter()
    assert (left.code, left.steps) == (NOTIFY, [DONE, {}])


def test_a_guest_that_has_no_data_area_runs_without(host: Host, guest: SecureGuest) -> None:
    host.put(guest.sie + SIE_SIDA, 0)
    before = host.read(0, PAGE)
    left = guest.run({"exit": "spx", "prefix": "0x0"}, MARK)
    assert (left.code, left.steps) == (NOTIFY, [{}])
    assert host.read(0, PAGE) == before, "absolute zero is no data area"


# -- a guest that its CPU stays in ----------------------------------------


def test_a_fault_ends_the_stay(host: Host, guest: SecureGuest) -> None:
    """The steps before it are in the fault; the step itself is done by the next entry."""
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    answer = host.ask("guest", vcpu=hex(guest.sie), do=[MARK, {"touch": hex(FREE)}])
    assert (answer["fault"]["address"], answer["fault"]["steps"]) == (hex(FREE), [DONE])
    assert "error" in host.ask("kick", cpu=0)
    guest.secure_page(FREE)
    assert guest.enter().steps == [{}]


def test_a_page_is_taken_from_a_guest_that_is_inside(host: Host, guest: SecureGuest) -> None:
    """Its next touch finds the page gone, whoever runs it."""
    page = guest.secure_page(FREE, b"mine")
    host.cpu(1, running=True)
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    host.call("convert_from", 1, paddr=page).done()
    answer = host.ask("guest", vcpu=hex(guest.sie), do=[{"read": hex(FREE), "len": 4}])
    assert answer["fault"]["code"] == "0x3e"
    assert not host.is_secure(page)


@pytest.mark.parametrize("gaddr", [0, PAGE], ids=["first", "second"])
def test_a_guest_does_not_go_on_without_its_prefix_pages(host: Host, guest: SecureGuest, gaddr: int) -> None:
    """Intercept 112 of a guest that is inside: the next step is not done, registers stay as they are."""
    host.write(guest.sie + SIE_GPRS, bytes(range(128)))
    host.cpu(1, running=True)
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    host.call("destroy_storage", 1, paddr=guest.space.target(gaddr)).done()
    body = host.ok("guest", vcpu=hex(guest.sie), do=[{"touch": hex(FREE)}, MARK])
    assert (body["exit"]["icptcode"], body["exit"]["steps"], body["queued"]) == ("0x70", [], 2)
    assert body["exit"]["gprs"][1] == "0x8090a0b0c0d0e0f"
    assert host.read(guest.sie + SIE_GPRS, 128) == bytes(range(128))
    guest.convert_to(gaddr, cpu=1).done()
    assert host.enter_fault(guest.sie).page == FREE


def test_a_table_that_is_stored_to_as_it_was_keeps_a_guest_inside(host: Host, guest: SecureGuest) -> None:
    """The same entry once more is no change, whatever a level below has to do about it."""
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    guest.space.map(0, guest.space.target(0))
    host.put(guest.space.segment_entry(0), host.get(guest.space.segment_entry(0)))
    assert host.ok("guest", vcpu=hex(guest.sie), do=[MARK])["steps"] == [DONE]
    assert Exit.read(host.ok("kick", cpu=0)).code == 0


def test_a_reset_of_the_guest_brings_its_other_cpu_out(host: Host) -> None:
    """One CPU asks for a reset while the other is inside: it leaves before its next step, and stays out."""
    guest = boot_guest(host, cpus=2)
    host.cpu(1, running=True)
    host.control(1, cr1=guest.space.asce)
    host.ok("enter", vcpu=hex(guest.cpus[1].sie), cpu=1, stay=True)
    left = guest.run({"cpu": {"gprs": {"2": 1}}}, {"exit": "diag", "code": "0x308", "r1": 0, "r3": 2})
    assert left.code == NOTIFY
    body = host.ok("guest", vcpu=hex(guest.cpus[1].sie), do=[MARK])
    assert (body["exit"]["icptcode"], body["exit"]["steps"]) == ("0x00", [])
    assert host.enter(guest.cpus[1].sie, cpu=1).code == VALIDITY


def test_a_cpu_stays_in_a_normal_guest_as_well(host: Host, guest: SecureGuest) -> None:
    sie = host.alloc()
    host.put(sie + 0x88, 2 * MIB - 1)
    page = guest.back(FREE, b"plain")
    read = {"read": hex(FREE), "len": 5}
    assert host.ok("enter", vcpu=hex(sie), stay=True) == {"running": True}
    assert host.ok("guest", vcpu=hex(sie), do=[read])["steps"] == [{"hex": b"plain".hex()}]
    host.write(page, b"other")
    assert host.ok("guest", vcpu=hex(sie), do=[read])["steps"] == [{"hex": b"other".hex()}]
    left = Exit.read(host.ok("kick", cpu=0))
    assert (left.code, left.steps) == (0, [])
    host.ok("enter", vcpu=hex(sie), stay=True)
    body = host.ok("guest", vcpu=hex(sie), do=[read, {"exit": "diag", "code": "0x44"}, read])
    assert (body["exit"]["icptcode"], len(body["steps"])) == ("0x04", 2)
    assert host.enter(sie).steps == [{"hex": b"other".hex()}]
    host.ok("enter", vcpu=hex(sie), stay=True)
    host.ok("kill")


def test_a_stay_is_over_with_the_host(host: Host, guest: SecureGuest) -> None:
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    host.reset("load-normal")
    assert "error" in host.ask("kick", cpu=0)
    assert host.read(guest.plan["base"], 8) == bytes(8)
    host.init()
    again = boot_guest(host)
    assert again.fetch(IMAGE_AT, 7) == b"this is"


def test_what_a_guest_was_told_ends_with_its_host(host: Host, guest: SecureGuest) -> None:
    """A guest that is made later at the same block has a program of its own."""
    guest.program({"touch": "0x70000"}, {"touch": "0x71000"})
    host.reset("modified-clear")
    host.init()
    other = SecureGuest.create(host, cpus=0)
    plan = host.plan_cpu(other.handle, 0, state=guest.sie)
    handle = host.call("create_cpu", **plan).done().handle
    host.put(guest.sie + SIE_CPU_HANDLE, handle)
    host.put(guest.sie + 0x18, other.handle)
    other.cpus = [type(guest.cpus[0])(handle, 0, plan["storage"], guest.sie, guest.sida)]
    other.load().start()
    left = other.run(MARK)
    assert (left.code, left.steps) == (WAIT, [DONE])


def test_a_secure_page_as_a_block_is_the_hosts_own_exception(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE)
    assert host.enter_fault(page).code == SECURE
