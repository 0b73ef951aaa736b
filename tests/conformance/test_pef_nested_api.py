"""The nesting API, version 1, as KVM offers it to a guest that is a hypervisor itself."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from driver import Json, number
from pef_field import MIB, P2, PAGE, PARAMETER, S_BIT, SF, SUCCESS, code, load_step, store_step, ucall_step

SET_TABLE, ENTER, TLBIE, COPY = 0xF800, 0xF804, 0xF808, 0xF80C
FUNCTION, NOT_AVAILABLE, NOT_FOUND, NO_MEM = -2, 3, -7, -9
TABLE, ROOT, STATE, REGISTERS = 1 * MIB, 2 * MIB, 3 * MIB, 3 * MIB + PAGE
LEVELS = (4 * MIB, 4 * MIB + PAGE, 4 * MIB + 2 * PAGE)
MEMORY = 8 * MIB  # where pages of the nested guest lie in its hypervisor's memory
LPID, TOKEN = 5, 1
NESTED = 4095  # the LPID that KVM gives the first nested guest
VALID, LEAF = 1 << 63, 1 << 62
NEVER = (1 << 63) - 1


class Hypervisor:
    """A guest that runs a guest of its own: what it keeps in its memory."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.vm = host.vm()
        assert self.vm.sys("KVM_ENABLE_CAP", cap="KVM_CAP_PPC_NESTED_HV") == 0
        self.words(TABLE + 16 * LPID, SF | 0x4000_0000_0000_00A0 | ROOT | 13, 0)
        at = ROOT
        for table, bits in zip(LEVELS, (9, 9, 5), strict=True):
            self.words(at, VALID | table | bits)
            at = table
        self.map(0, MEMORY)
        self.state()

    def words(self, gpa: int, *values: int) -> None:
        self.vm.write(gpa, struct.pack(f">{len(values)}Q", *values))

    def map(self, page: int, to: int | None) -> None:
        """Page `page` of the nested guest, of 32."""
        self.words(LEVELS[2] + 8 * page, 0 if to is None else VALID | LEAF | to | 7)

    def state(self, version: int = 2, lpid: int = LPID, token: int = TOKEN, expiry: int = NEVER) -> None:
        self.vm.write(STATE, struct.pack(">QII", version, lpid, token) + bytes(8 * 29))
        self.words(STATE + 16 + 8 * 9, expiry)
        self.words(REGISTERS, *[0] * 32, 0x1000, SF, *[0] * 10)

    def call(self, which: int, *arguments: int, do: list[Json] | None = None) -> Json:
        step: Json = {
            "hcall": {"r3": hex(which)} | {f"r{4 + n}": hex(value) for n, value in enumerate(arguments)}
        }
        if do is not None:
            step["do"] = do
        (done,) = self.vm.run(step)
        return done

    def code(self, which: int, *arguments: int) -> int:
        return code(self.call(which, *arguments)["r3"])

    def boot(self) -> None:
        assert self.code(SET_TABLE, TABLE) == SUCCESS

    def enter(self, *do: Json) -> tuple[int, list[Json]]:
        """The trap, and the nested guest's results."""
        done = self.call(ENTER, STATE, REGISTERS, do=list(do))
        return code(done["r3"]), done.get("steps", [])

    def register(self, place: int) -> int:
        return int.from_bytes(self.vm.read(REGISTERS + 8 * place), "big")

    def word(self, place: int) -> int:
        return int.from_bytes(self.vm.read(STATE + 16 + 8 * place), "big")


@pytest.fixture
def hypervisor(pef: Any) -> Hypervisor:
    return Hypervisor(pef())


def test_without_the_capability_there_is_no_nesting(pef: Any) -> None:
    vm = pef().vm()
    for call in (SET_TABLE, ENTER, TLBIE, COPY):
        assert code(vm.run({"hcall": {"r3": hex(call)}})[0]["r3"]) == FUNCTION


def test_a_partition_table_has_at_most_4096_entries_in_memory(hypervisor: Hypervisor) -> None:
    assert hypervisor.code(SET_TABLE, TABLE | 5) == PARAMETER
    assert hypervisor.code(SET_TABLE, 1 << 40) == PARAMETER
    assert hypervisor.code(SET_TABLE, TABLE | 4) == SUCCESS
    assert hypervisor.code(SET_TABLE, 0) == SUCCESS


def test_an_entry_is_refused_in_order(hypervisor: Hypervisor) -> None:
    assert hypervisor.code(ENTER, 1 << 40, 1 << 40) == NOT_AVAILABLE
    hypervisor.boot()
    assert hypervisor.code(ENTER, 1 << 40, REGISTERS) == PARAMETER
    assert hypervisor.code(ENTER, STATE, 1 << 40) == PARAMETER
    for wrong in ({"version": 3}, {"version": 0}, {"token": 1 << 31}, {"lpid": 6}, {"lpid": 300}):
        hypervisor.state(**wrong)
        assert hypervisor.enter() == (PARAMETER, []), wrong
    hypervisor.state(version=1)
    assert hypervisor.enter()[0] == 0x980


def test_a_nested_guest_runs(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    trap, done = hypervisor.enter(store_step(8, b"nested"), load_step(8))
    assert (trap, done) == (0x980, [{}, {"value": b"nested".hex() + "0000"}])
    assert hypervisor.vm.read(MEMORY + 8, 6) == b"nested"
    assert hypervisor.register(32) == 0x1000 + 8 and hypervisor.register(33) == SF


def test_a_time_that_has_passed_ends_it_before_it_begins(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    hypervisor.state(expiry=0)
    assert hypervisor.enter(store_step(0, b"x")) == (0x980, [])
    hypervisor.state()
    assert hypervisor.enter() == (0x980, [{}])


def test_a_hypercall_of_a_nested_guest_is_its_hypervisors(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    trap, done = hypervisor.enter({"hcall": {"r3": "0x1234", "r4": 7}}, load_step(0))
    assert (trap, done) == (0xC00, [])
    assert [hypervisor.register(place) for place in (3, 4, 32)] == [0x1234, 7, 0x1004]
    hypervisor.words(REGISTERS + 24, 99)
    trap, done = hypervisor.enter()
    assert trap == 0x980 and done[0]["r3"] == hex(99) and done[1] == {"value": "00" * 8}


def test_a_storage_interrupt_that_its_hypervisor_has_no_page_for_is_its_own(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    assert hypervisor.enter(load_step(3 * PAGE + 8)) == (0xE00, [])
    assert (hypervisor.word(14), hypervisor.word(17)) == (3 * PAGE + 8, 3 * PAGE)
    assert hypervisor.word(15) & 0x4000_0000
    hypervisor.vm.write(MEMORY + PAGE, b"12345678abcdefgh")
    hypervisor.map(3, MEMORY + PAGE)
    assert hypervisor.enter() == (0x980, [{"value": b"abcdefgh".hex()}])
    assert hypervisor.enter({"fetch": hex(4 * PAGE)}) == (0xE20, [])


def test_a_mapping_stays_until_it_is_invalidated(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    hypervisor.vm.write(MEMORY, b"old     ")
    hypervisor.vm.write(MEMORY + PAGE, b"new     ")
    assert hypervisor.enter(load_step(0))[1] == [{"value": b"old     ".hex()}]
    hypervisor.map(0, MEMORY + PAGE)
    image = 1 << 16  # R
    assert hypervisor.code(TLBIE, image, LPID, 5 << 5) == SUCCESS
    assert hypervisor.enter(load_step(0))[1] == [{"value": b"new     ".hex()}]
    hypervisor.map(0, MEMORY)
    assert hypervisor.code(TLBIE, image | 2 << 18, LPID, 2 << 10) == SUCCESS
    assert hypervisor.enter(load_step(0))[1] == [{"value": b"old     ".hex()}]


def test_the_mappings_of_another_guest_stay(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    hypervisor.words(TABLE + 16 * 7, SF | 0x4000_0000_0000_00A0 | ROOT | 13, 0)
    hypervisor.vm.write(MEMORY, b"old     ")
    hypervisor.vm.write(MEMORY + PAGE, b"new     ")
    for lpid in (LPID, 7):
        hypervisor.state(lpid=lpid)
        assert hypervisor.enter(load_step(0))[1] == [{"value": b"old     ".hex()}]
    hypervisor.map(0, MEMORY + PAGE)
    assert hypervisor.code(TLBIE, 1 << 16, LPID, 5 << 5) == SUCCESS
    seen = []
    for lpid in (LPID, 7):
        hypervisor.state(lpid=lpid)
        seen += hypervisor.enter(load_step(0))[1]
    assert seen == [{"value": b"new     ".hex()}, {"value": b"old     ".hex()}]


def test_a_table_in_memory_that_nobody_wrote_maps_nothing(hypervisor: Hypervisor) -> None:
    hypervisor.words(TABLE + 16 * LPID, SF | 0x4000_0000_0000_00A0 | 24 * MIB | 13, 0)
    hypervisor.boot()
    assert hypervisor.enter(load_step(0)) == (0xE00, [])


def test_an_entry_by_hand_brings_no_steps(hypervisor: Hypervisor) -> None:
    """What a nested guest does comes with the call of its hypervisor; the keyboard's own has none."""
    hypervisor.boot()
    assert hypervisor.enter({"fetch": hex(4 * PAGE)}) == (0xE20, [])
    hypervisor.map(4, MEMORY)
    hypervisor.state()
    body = hypervisor.host.ok("hcall", vm=3, vcpu=0, r3=hex(ENTER), r4=hex(STATE), r5=hex(REGISTERS))
    assert body["r3"] == "0x980"
    assert hypervisor.register(32) == 0x1000 + 4


@pytest.mark.parametrize(
    ("image", "rb"),
    [
        (0, 5 << 5),  # not radix
        (1 << 16 | 1 << 17, 5 << 5),  # process scoped
        (1 << 16 | 3 << 18, 5 << 5),
        (1 << 16, 1 << 10),
        (1 << 16 | 1 << 18, 5 << 5),
        (1 << 16, 7 << 5),  # no such page size
    ],
)
def test_an_invalidation_that_makes_no_sense_is_refused(hypervisor: Hypervisor, image: int, rb: int) -> None:
    hypervisor.boot()
    assert hypervisor.code(TLBIE, image, LPID, rb) == PARAMETER


def test_copies_are_checked_in_order(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    buffer = 16 * MIB
    assert hypervisor.code(COPY, 99, 0, 1 << 60, 1, 1, 1 << 40) == PARAMETER
    assert hypervisor.code(COPY, 99, 0, 1 << 60, 1, 0, 1 << 40) == PARAMETER
    assert hypervisor.code(COPY, 99, 0, 0, buffer, 0, 1 << 40) == NO_MEM
    assert hypervisor.code(COPY, LPID, 0, 0, buffer, 0, 8) == PARAMETER  # it was never entered
    hypervisor.enter(store_step(PAGE - 4, b"end!"))
    assert hypervisor.code(COPY, LPID, 0, PAGE - 4, buffer, 0, 8) == NOT_FOUND
    assert hypervisor.code(COPY, LPID, 0, PAGE - 4, 1 << 40, 0, 4) == NOT_FOUND
    assert hypervisor.code(COPY, LPID, 0, PAGE - 4, buffer, 0, 4) == SUCCESS
    assert hypervisor.vm.read(buffer, 4) == b"end!"
    assert hypervisor.code(COPY, LPID, 0, 16, 0, 1 << 40, 4) == NOT_FOUND  # from where there is nothing
    hypervisor.vm.write(buffer, b"back")
    assert hypervisor.code(COPY, LPID, 0, 16, 0, buffer, 4) == SUCCESS
    assert hypervisor.enter(load_step(16))[1] == [{"value": b"back".hex() + "00" * 4}]


def test_a_page_that_moves_under_the_hypervisor_is_found_again(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    hypervisor.vm.slot(1, 64 * MIB, MIB)
    hypervisor.map(7, 64 * MIB)
    assert hypervisor.enter(store_step(7 * PAGE, b"x")) == (0x980, [{}])
    assert hypervisor.vm.slot(1, 0, 0) == 0
    assert hypervisor.enter(load_step(7 * PAGE))[0] == 0xE00
    hypervisor.vm.slot(1, 64 * MIB, MIB)
    assert hypervisor.enter() == (0x980, [{"value": "00" * 8}])


def test_a_nested_guest_that_wants_to_be_secure_comes_up_to_its_hypervisor(hypervisor: Hypervisor) -> None:
    """It cannot be helped there: the ultravisor refuses a hypervisor that is a guest."""
    host, vm = hypervisor.host, hypervisor.vm
    hypervisor.boot()
    trap, done = hypervisor.enter(ucall_step("ESM", PAGE, 2 * PAGE))
    assert (trap, done) == (0xC00, [])
    assert hypervisor.register(3) == 0xEF08 and hypervisor.word(19) & S_BIT  # H_SVM_INIT_START
    assert vm.gcall("REGISTER_MEM_SLOT", LPID, 0, 2 * MIB, 0, 0) == -11
    assert host.audit["te"]["svms"] == 1
    hypervisor.words(REGISTERS + 24, PARAMETER & ((1 << 64) - 1))
    trap, _ = hypervisor.enter()
    assert trap == 0xC00 and hypervisor.register(3) == 0xEF14  # H_SVM_INIT_ABORT
    assert not hypervisor.word(19) & S_BIT
    hypervisor.words(REGISTERS + 24, PARAMETER & ((1 << 64) - 1))
    trap, done = hypervisor.enter(load_step(0))
    assert trap == 0x980 and code(done[0]["r3"]) == PARAMETER and done[1] == {"value": "00" * 8}
    assert hypervisor.code(SET_TABLE, 0) == SUCCESS
    assert host.audit["te"]["svms"] == 0


def test_what_a_return_by_hand_into_a_nested_svm_brings_is_no_vms(hypervisor: Hypervisor) -> None:
    host = hypervisor.host
    hypervisor.boot()
    hypervisor.enter(ucall_step("ESM", PAGE, 2 * PAGE))
    cookie = hypervisor.register(31)
    host.ok("cpu", lpidr=NESTED)
    left = host.back(status=PARAMETER, r31=cookie, hsrr0=cookie)
    assert (left["vm"], left["secure"], left["r3"], left["steps"]) == (hex(NESTED), True, "0xef14", [])
    again = host.back(status=PARAMETER)  # to the same: H_SVM_INIT_ABORT has no way back but this
    assert (again["vm"], again["secure"]) == (hex(NESTED), False)


def test_a_hypercall_by_hand_into_a_nested_svm_that_ended_stops_the_machine(
    hypervisor: Hypervisor,
) -> None:
    host = hypervisor.host
    hypervisor.boot()
    hypervisor.enter(ucall_step("ESM", PAGE, 2 * PAGE))
    assert host.ucall("SVM_TERMINATE", NESTED) == SUCCESS
    asked = {"vm": 3, "vcpu": 0, "r3": hex(ENTER), "r4": hex(STATE), "r5": hex(REGISTERS)}
    assert "bad cookie" in host.error("hcall", "dead", **asked)["message"]
    host.error("kvm", "dead", vm=3, name="close")
    host.ok("reset", kind="system")


def test_nested_guests_end_with_their_hypervisor(hypervisor: Hypervisor) -> None:
    hypervisor.boot()
    hypervisor.enter(ucall_step("ESM", PAGE, 2 * PAGE))
    assert hypervisor.vm.sys("close") == 0
    assert hypervisor.host.audit["te"]["svms"] == 0
    assert hypervisor.host.audit["tracked"]["vms"] == 0


def test_a_secure_hypervisor_has_nothing_that_kvm_could_read(pef: Any) -> None:
    hypervisor = Hypervisor(pef())
    vm = hypervisor.vm
    vm.load(16 * MIB)
    assert vm.esm()["secure"]
    done = vm.run(
        {"hcall": {"r3": hex(SET_TABLE), "r4": hex(TABLE)}},
        {"hcall": {"r3": hex(ENTER), "r4": hex(STATE), "r5": hex(REGISTERS)}},
    )
    assert [code(step["r3"]) for step in done] == [SUCCESS, PARAMETER]
    assert number(done[0]["msr"]) & S_BIT and P2 != 0


def test_a_guest_of_a_nested_guest_is_not_typed(hypervisor: Hypervisor) -> None:
    inner = {"hcall": {"r3": hex(ENTER)}, "do": [load_step(0)]}
    step = {"hcall": {"r3": hex(ENTER)}, "do": [inner]}
    wrong = hypervisor.host.error("guest", "bad_value", vm=3, vcpu=0, do=[step])
    assert "a nested guest runs no guest of its own" in wrong["message"]


def test_a_vm_has_at_most_2048_vcpus(hypervisor: Hypervisor) -> None:
    assert hypervisor.vm.sys("KVM_CREATE_VCPU", vcpu=2047) == 0
    assert hypervisor.vm.sys("KVM_CREATE_VCPU", vcpu=2048) == -22
