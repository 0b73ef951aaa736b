"""What a host sees of a secure guest's instructions, and what it may give back: section 5.4 of the sheet."""

from __future__ import annotations

import pytest
from driver import Json, number
from s390_blocks import EMULATE, INSTRUCTION, MIB, NOTIFY, OPERAND, PAGE, SPECIFICATION, VALIDITY, WAIT
from s390_field import Exit, Host
from s390_guest import IMAGE_AT, SIE_GPRS, SIE_IICTL, SecureGuest, boot_guest

MARKS = {which: 0x1111_0000_0000_0000 * (which % 15 + 1) | which for which in range(16)}


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest whose registers hold sixteen different values."""
    made = boot_guest(host)
    assert made.run(set_gprs(MARKS)).steps == [{}]
    return made


def set_gprs(values: dict[int, int]) -> Json:
    return {"cpu": {"gprs": {str(which): hex(value) for which, value in values.items()}}}


def diag(code: int, r1: int = 0, r3: int = 0) -> Json:
    return {"exit": "diag", "code": hex(code), "r1": r1, "r3": r3}


def normalised(left: Exit, code: int, icptcode: int) -> None:
    """A diagnose always looks the same: its code in register 5."""
    assert (left.code, left.ipa, left.ipb) == (icptcode, 0x8302, 0x5000_0000), left
    assert left.gprs[5] == code
    assert left.gprs[6:] == [0] * 10, "registers that the instruction does not use"


def register(guest: SecureGuest, which: int) -> int:
    """What the guest itself has in a register."""
    left = guest.run(diag(0x9C, r1=which))
    assert left.code == NOTIFY
    return left.gprs[0]


# -- notifications ----------------------------------------


def test_the_yield_of_the_contracts_example(host: Host) -> None:
    guest = boot_guest(host)
    guest.program({"cpu": {"gprs": {"3": 5}}}, {"exit": "diag", "code": "0x9c", "r1": 3})
    body = host.ok("enter", vcpu=hex(guest.sie))
    gprs = ["0x5", "0x0", "0x0", "0x0", "0x0", "0x9c"] + ["0x0"] * 10
    assert body == {"icptcode": "0x6c", "ipa": "0x8302", "ipb": "0x50000000", "gprs": gprs, "steps": [{}, {}]}


def test_a_yield_shows_no_register_but_its_code(guest: SecureGuest) -> None:
    left = guest.run(diag(0x44, r1=7, r3=8))
    normalised(left, 0x44, NOTIFY)
    assert left.gprs[:5] == [0] * 5
    assert left.steps == [{}]


@pytest.mark.parametrize("r1", [1, 3, 8, 15])
def test_a_directed_yield_shows_the_register_that_it_names(guest: SecureGuest, r1: int) -> None:
    left = guest.run(diag(0x9C, r1=r1))
    normalised(left, 0x9C, NOTIFY)
    assert left.gprs[:5] == [MARKS[r1], 0, 0, 0, 0]


@pytest.mark.parametrize("subcode", [0, 1])
@pytest.mark.parametrize("r3", [3, 9])
def test_an_ipl_diagnose_shows_its_subcode(guest: SecureGuest, subcode: int, r3: int) -> None:
    left = guest.run(set_gprs({r3: subcode}), diag(0x308, r1=0, r3=r3))
    normalised(left, 0x308, NOTIFY)
    assert left.gprs[2] == subcode
    assert left.gprs[3:5] == [0, 0]


def test_set_prefix_leaves_the_new_prefix_in_the_sida(host: Host, guest: SecureGuest) -> None:
    for gaddr in (0x40000, 0x41000):
        guest.secure_page(gaddr)
    left = guest.run({"exit": "spx", "prefix": "0x40000"})
    assert (left.code, left.ipa, left.steps) == (NOTIFY, 0xB210, [{}])
    assert host.get(guest.sida, 4) == 0x40000
    assert guest.enter().code == WAIT


def test_the_prefix_applies_to_guest_real_addresses(host: Host, guest: SecureGuest) -> None:
    for gaddr in (0x40000, 0x41000):
        guest.secure_page(gaddr)
    guest.store(0x200, b"absolute zero")
    guest.run({"exit": "spx", "prefix": "0x40000"})
    guest.store(0x200, b"prefixed area")
    assert guest.fetch(0x200, 13) == b"prefixed area"
    assert guest.fetch(0x40200, 13) == b"absolute zero"
    guest.run({"exit": "spx", "prefix": "0x0"})
    assert guest.fetch(0x200, 13) == b"absolute zero"
    assert guest.fetch(0x40200, 13) == b"prefixed area"


def test_signal_processor_is_notified(guest: SecureGuest) -> None:
    left = guest.run({"exit": "sigp", "order": 5, "address": 1, "parameter": "0x0"})
    assert (left.code, left.ipa & 0xFF00) == (NOTIFY, 0xAE00)


def test_a_service_call_is_notified(guest: SecureGuest) -> None:
    left = guest.run({"exit": "sclp", "command": "0x00020001", "gpa": hex(IMAGE_AT)})
    assert (left.code, left.ipa) == (NOTIFY, 0xB220)


def test_what_a_host_writes_after_a_notification_is_ignored(host: Host, guest: SecureGuest) -> None:
    """5.4: already done; the host's data is ignored."""
    guest.run(diag(0x9C, r1=3))
    host.write(guest.sie + SIE_GPRS, b"\xff" * 128)
    assert guest.enter().code == WAIT
    for other in (0, 2, 3, 5, 14):
        assert register(guest, other) == MARKS[other]


@pytest.mark.parametrize("injection", [0x10, 0x11], ids=hex)
@pytest.mark.parametrize(
    "step",
    [diag(0x44), diag(0x9C, r1=3), {"exit": "sigp", "order": 1, "address": 0, "parameter": "0x0"}],
    ids=["diag44", "diag9c", "sigp"],
)
def test_nothing_is_injected_after_a_notification(
    host: Host, guest: SecureGuest, step: Json, injection: int
) -> None:
    """5.4: validity; put right, the guest goes on as if nothing had been."""
    assert guest.run(step).code == NOTIFY
    host.put(guest.sie + SIE_IICTL, injection, 1)
    left = guest.run({"read": hex(IMAGE_AT), "len": 4})
    assert (left.code, left.reason & 0xFF00, left.steps) == (VALIDITY, 0x2000, [])
    host.put(guest.sie + SIE_IICTL, 0, 1)
    left = guest.enter()
    assert (left.code, left.steps) == (WAIT, [{"hex": b"this".hex()}])


# -- instructions that the host completes ----------------------------------------


def test_a_hypercall_shows_its_four_registers(guest: SecureGuest) -> None:
    left = guest.run(diag(0x500))
    normalised(left, 0x500, EMULATE)
    assert left.gprs[1:5] == [MARKS[which] for which in range(1, 5)]
    assert left.steps == [], "104: finished by the next entry"


def test_the_watchdog_shows_the_registers_that_it_names(guest: SecureGuest) -> None:
    """5.4: the sheet takes 104. R1 names a pair."""
    left = guest.run(diag(0x288, r1=6, r3=8))
    normalised(left, 0x288, EMULATE)
    assert left.gprs[:5] == [MARKS[6], MARKS[7], MARKS[8], 0, 0]


def test_the_host_gives_a_hypercall_its_result_in_register_2(host: Host, guest: SecureGuest) -> None:
    guest.run(diag(0x500))
    host.put(guest.sie + SIE_GPRS + 16, 0xCAFE)
    left = guest.run({"read": hex(IMAGE_AT), "len": 4})
    assert left.steps[0]["gprs"].keys() == {"2"}
    assert number(left.steps[0]["gprs"]["2"]) == 0xCAFE
    assert left.steps[1:] == [{"hex": b"this".hex()}]
    assert register(guest, 2) == 0xCAFE


def test_a_hypercall_takes_register_2_and_no_other(host: Host, guest: SecureGuest) -> None:
    guest.run(diag(0x500))
    host.write(guest.sie + SIE_GPRS, b"\xee" * 128)
    assert guest.enter().code == WAIT
    assert register(guest, 2) == 0xEEEE_EEEE_EEEE_EEEE
    for other in (0, 1, 3, 4, 5, 6, 15):
        assert register(guest, other) == MARKS[other]


def test_a_hypercall_is_completed_once(host: Host, guest: SecureGuest) -> None:
    guest.run(diag(0x500), diag(0x500))
    host.put(guest.sie + SIE_GPRS + 16, 1)
    left = guest.enter()
    assert (left.code, left.gprs[2]) == (EMULATE, 1)
    host.put(guest.sie + SIE_GPRS + 16, 2)
    assert len(guest.enter().steps) == 1
    assert register(guest, 2) == 2


@pytest.mark.parametrize(
    ("code", "injection", "pgm"),
    [(0x500, 0x10, SPECIFICATION), (0x500, 0x11, OPERAND), (0x288, 0x10, SPECIFICATION)],
    ids=["500_specification", "500_operand", "288_specification"],
)
def test_a_host_may_answer_with_a_program_interruption(
    host: Host, guest: SecureGuest, code: int, injection: int, pgm: int
) -> None:
    """5.4: the outcome of the instruction that exited; the guest finds the code at real 0x8E."""
    guest.run(diag(code, r1=6, r3=8))
    host.put(guest.sie + SIE_IICTL, injection, 1)
    left = guest.run({"read": "0x8e", "len": 2})
    assert left.code == WAIT
    assert number(left.steps[0]["pgm"]) == pgm
    assert left.steps[1:] == [{"hex": f"{pgm:04x}"}]
    assert host.get(guest.sie + SIE_IICTL, 1) == 0, "the Ultravisor sets it back"
    assert register(guest, 2) == MARKS[2]


def test_the_interruption_code_is_at_a_real_address(host: Host, guest: SecureGuest) -> None:
    for gaddr in (0x40000, 0x41000):
        guest.secure_page(gaddr)
    guest.run({"exit": "spx", "prefix": "0x40000"})
    guest.run(diag(0x500))
    host.put(guest.sie + SIE_IICTL, 0x11, 1)
    left = guest.run({"read": "0x8e", "len": 2}, {"read": "0x4008e", "len": 2})
    assert left.steps[1:] == [{"hex": "0015"}, {"hex": "0000"}]


def test_a_program_interruption_ends_problem_state(guest: SecureGuest) -> None:
    """console/s390.md, `guest`: the CPU is in supervisor state, the next step stands for the handler."""
    call = {"call": {"r2": "0x8000"}}
    left = guest.run({"cpu": {"problem_state": True}}, call, call)
    assert number(left.steps[1]["pgm"]) == 0x02
    assert set(left.steps[2]) == {"cc"}


# -- steps ----------------------------------------


def test_a_load_is_right_aligned_and_zero_extended(guest: SecureGuest) -> None:
    guest.store(0x8100, bytes.fromhex("8899aabbccddeeff"))
    for length in (1, 2, 4, 8):
        left = guest.run({"load": "0x8100", "len": length, "gpr": 9})
        assert left.steps == [{}]
        assert register(guest, 9) == int("8899aabbccddeeff"[: 2 * length], 16)


def test_a_program_goes_on_over_exits(guest: SecureGuest) -> None:
    guest.program(set_gprs({3: 1}), diag(0x9C, r1=3), set_gprs({3: 2}), diag(0x9C, r1=3), diag(0x44))
    seen = [guest.enter() for _ in range(4)]
    assert [left.code for left in seen] == [NOTIFY, NOTIFY, NOTIFY, WAIT]
    assert [left.gprs[0] for left in seen[:2]] == [1, 2]
    assert [len(left.steps) for left in seen] == [2, 2, 1, 0]


def test_every_cpu_has_a_program_and_registers_of_its_own(host: Host) -> None:
    guest = boot_guest(host, cpus=2)
    guest.program(set_gprs({3: 0xA}), diag(0x9C, r1=3))
    guest.program(set_gprs({3: 0xB}), diag(0x9C, r1=3), cpu=1)
    assert guest.enter(cpu=1).gprs[0] == 0xB
    assert guest.enter(cpu=0).gprs[0] == 0xA


def test_a_page_written_by_one_cpu_is_read_by_another(host: Host) -> None:
    guest = boot_guest(host, cpus=2)
    guest.store(0x8200, b"over here")
    left = guest.run({"read": "0x8200", "len": 9}, cpu=1)
    assert bytes.fromhex(left.steps[0]["hex"]) == b"over here"


def test_a_block_without_sdf_runs_a_normal_guest(host: Host) -> None:
    """console/s390.md, `enter`: MSO and MSL of the block; exits are the normal ones."""
    guest = SecureGuest.create(host)
    guest.space.map(0x5000, host.page_of(0x35))
    sie = host.alloc()
    host.put(sie + 0x88, 2 * MIB - 1)
    host.control(cr1=guest.space.asce)
    steps = [{"read": "0x5000", "len": 2}, {"touch": "0x5000", "write": True, "value": "beef"}, diag(0x500)]
    host.ok("guest", vcpu=hex(sie), do=steps)
    left = host.enter(sie)
    assert (left.code, left.ipa >> 8) == (INSTRUCTION, 0x83)
    assert left.steps[:2] == [{"hex": "3535"}, {}]
    assert host.read(guest.space.target(0x5000), 2) == b"\xbe\xef"
    fault_free = host.ask("guest", vcpu=hex(sie), do=[{"touch": hex(PAGE), "write": False}])
    assert "ok" in fault_free
