"""Mistakes that somebody could make in POWER's ultravisor, its emulation, or its host. A plain module."""

from __future__ import annotations

from typing import Any

from checkers import Beside, Mutation, Patch
from mutations import CALM, GOOD, LAST, WITH_A_SERVICE, last_read

from protocol.arch.pef import front
from protocol.arch.pef.machine import guest, memory, vcpu
from protocol.arch.pef.machine.svm import OutOfUnits, SecureMemory, Slot
from protocol.arch.pef.nesting import Nested, entry, teardown
from protocol.arch.pef.nesting.records import Lpids
from protocol.arch.pef.nesting.treatments import TREATMENTS
from protocol.arch.pef.status import SUCCESS
from protocol.arch.pef.tables import PAGE, Page


def the_last_byte_of_a_store_is_forgotten(patch: Patch) -> None:
    real = guest._secure

    def secure(machine: Any, frame: int, at: int, n: int, data: bytes | None) -> bytes:
        return real(machine, frame, at, n, data if data is None else data[:-1])

    patch.setattr(guest, "_secure", secure)


def a_secure_page_is_written_through_to_where_it_came_from(patch: Patch) -> None:
    bring_in, secure = memory.bring_in, guest._secure

    def bound(machine: Any, svm: Any, frame: int, source: int) -> int:
        status = bring_in(machine, svm, frame, source)
        if machine.secure.page(frame) is Page.SECURE:
            machine.secure.bind(frame, source)
        return status

    def through(machine: Any, frame: int, at: int, n: int, data: bytes | None) -> bytes:
        if data is not None and machine.secure.normal_of(frame):
            machine.store(machine.secure.normal_of(frame) + at % PAGE, data)
        return secure(machine, frame, at, n, data)

    patch.setattr(memory, "bring_in", bound)
    patch.setattr(guest, "_secure", through)


def a_register_is_not_scrubbed(patch: Patch) -> None:
    """A reflection leaves one register as the guest had it."""
    real = vcpu.reflect

    def reflect(machine: Any, cpu: Any, svm: Any, thread: Any, asked: Any) -> Any:
        left = real(machine, cpu, svm, thread, asked)
        if last_read(thread.vcpu.program):
            left.gpr[20] = last_read(thread.vcpu.program)
        return left

    patch.setattr(vcpu, "reflect", reflect)


def an_svm_that_ended_stays_in_the_book(patch: Patch) -> None:
    real = Nested._ended

    def ended(self: Nested, record: Any) -> None:
        real(self, record)
        record.svm = True

    patch.setattr(Nested, "_ended", ended)


def a_slot_that_is_registered_is_not_noted(patch: Patch) -> None:
    real = TREATMENTS[front.REGISTER_MEM_SLOT]

    def register(nested: Nested, cpu: Any, gpr: list[int]) -> Any:
        status = yield from real(nested, cpu, gpr)
        if status == SUCCESS and gpr[4] in nested.records:
            nested.records[gpr[4]].slots.pop(gpr[8], None)
        return status

    patch.setitem(TREATMENTS, front.REGISTER_MEM_SLOT, register)  # type: ignore[misc]


def the_quota_is_charged_a_unit_too_much(patch: Patch) -> None:
    real = TREATMENTS[front.REGISTER_MEM_SLOT]

    def register(nested: Nested, cpu: Any, gpr: list[int]) -> Any:
        status = yield from real(nested, cpu, gpr)
        record = nested.records.get(gpr[4])
        if status == SUCCESS and record is not None and gpr[8] in record.slots:
            record.slots[gpr[8]] += 1
        return status

    patch.setitem(TREATMENTS, front.REGISTER_MEM_SLOT, register)  # type: ignore[misc]


def a_reflection_that_was_answered_stays_open_in_the_book(patch: Patch) -> None:
    real = entry.uv_return

    def uv_return(nested: Nested, cpu: Any, gpr: list[int], *rest: Any) -> Any:
        whose = [record for record in nested.records.values() if gpr[31] in record.open]
        reflections = [record.open[gpr[31]] for record in whose]
        left = yield from real(nested, cpu, gpr, *rest)
        for record, reflection in zip(whose, reflections, strict=True):
            record.open[gpr[31]] = reflection
        return left

    patch.setattr(entry, "uv_return", uv_return)


def a_dead_hosts_svm_is_not_ended(patch: Patch) -> None:
    real = teardown.vm

    def vm(nested: Nested, record: Any, cause: str) -> Any:
        record.svm = False
        yield from real(nested, record, cause)

    patch.setattr(teardown, "vm", vm)


def secure_memory_is_written_down_for_another_svm(patch: Patch) -> None:
    real = SecureMemory.reserve

    def reserve(self: SecureMemory, lpid: int, number: int, first: int, count: int) -> Slot:
        slot = real(self, lpid, number, first, count)
        self.owner[slot.frames[-1]] = lpid + 1
        return slot

    patch.setattr(SecureMemory, "reserve", reserve)


def a_unit_of_secure_memory_is_lost(patch: Patch) -> None:
    real = SecureMemory.release

    def release(self: SecureMemory, slot: Slot) -> None:
        real(self, slot)
        self._free.pop()

    patch.setattr(SecureMemory, "release", release)


def an_lpid_is_lost(patch: Patch) -> None:
    """What a host that ends had of its seat's LPIDs does not come back."""
    real, given = Lpids.give, [0]

    def give(self: Lpids, lpid: int) -> None:
        given[0] += 1
        if given[0] % 4:
            real(self, lpid)

    patch.setattr(Lpids, "give", give)


def vms_of_a_host_that_crashed_are_forgotten(patch: Patch) -> None:
    real = teardown.everything

    def everything(nested: Nested, cause: str) -> Any:
        if cause != "l1_crash":
            yield from real(nested, cause)

    patch.setattr(teardown, "everything", everything)


def a_teardown_waits_for_ever(patch: Patch) -> None:
    def everything(nested: Nested, _cause: str) -> Any:
        while True:
            yield from nested.below.memory.tlbie(nested.cpu_below(nested.keeper), 0, 0)

    patch.setattr(teardown, "everything", everything)


def a_host_that_did_nothing_wrong_is_refused(patch: Patch) -> None:
    """The ultravisor says that it has no secure memory, and it has."""
    real, asked = SecureMemory.reserve, [0]

    def reserve(self: SecureMemory, *arguments: int) -> Any:
        asked[0] += 1
        if asked[0] % 5 == 0:
            raise OutOfUnits
        return real(self, *arguments)

    patch.setattr(SecureMemory, "reserve", reserve)


def a_register_says_how_much_others_asked(patch: Patch) -> None:
    """What an ultracall leaves in a register that nobody reads is a number that all hosts share."""
    from protocol.arch.pef.linked import Server

    real, asked = Server._serve, [0]

    def serve(self: Server, operation: str, request: Any) -> Any:
        asked[0] += 1
        answer = yield from real(self, operation, request)
        if isinstance(answer.result, list):
            answer.result[31] = asked[0]
        return answer

    patch.setattr(Server, "_serve", serve)


MUTATIONS = (
    Mutation("living._compare", the_last_byte_of_a_store_is_forgotten, GOOD),
    Mutation("checks.memory", a_secure_page_is_written_through_to_where_it_came_from, GOOD),
    Mutation("checks.crossed", a_register_is_not_scrubbed, GOOD),
    Mutation("checks.books", an_svm_that_ended_stays_in_the_book, GOOD, "'svms'"),
    Mutation("checks.books", a_slot_that_is_registered_is_not_noted, GOOD, "'slots'"),
    Mutation("checks.books", the_quota_is_charged_a_unit_too_much, GOOD, "'units'"),
    Mutation(
        "checks.books", a_reflection_that_was_answered_stays_open_in_the_book, GOOD, "'open_reflections'"
    ),
    Mutation("checks.books", a_dead_hosts_svm_is_not_ended, GOOD, "'svm'"),
    Mutation("checks.books", secure_memory_is_written_down_for_another_svm, GOOD, "'slot'"),
    Mutation("checks.books", a_unit_of_secure_memory_is_lost, GOOD, "'units'"),
    Mutation("checks.books", an_lpid_is_lost, GOOD, "'lpid'"),
    Mutation("checks.nothing_left/1", vms_of_a_host_that_crashed_are_forgotten, LAST, "'svms'"),
    Mutation("episode._rest", a_teardown_waits_for_ever, GOOD),
    Mutation("living._refused", a_host_that_did_nothing_wrong_is_refused, CALM),
    Mutation("l0guests.hop", a_host_that_did_nothing_wrong_is_refused, WITH_A_SERVICE),
    Mutation("isolation.alone_and_beside", a_register_says_how_much_others_asked, Beside()),
)
