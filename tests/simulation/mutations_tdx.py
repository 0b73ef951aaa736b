"""Mistakes that somebody could make in the TDX module, its emulation, or its host. A plain module."""

from __future__ import annotations

from typing import Any

from checkers import Beside, Mutation, Patch
from mutations import ALIVE, CALM, GOOD, LAST, LONG, WITH_A_SERVICE, last_read

from protocol.arch.tdx.machine import Machine, enter, steps
from protocol.arch.tdx.machine.access import resolve
from protocol.arch.tdx.nesting import TREATMENTS, Nested, teardown
from protocol.arch.tdx.nesting.keys import CACHE_WB, kept
from protocol.arch.tdx.shared_ept import WRITE
from protocol.arch.tdx.status import RCX, Refused, Status
from protocol.arch.tdx.tables import KeyState, Lifecycle

KEY_CONFIG, FREE_KEY = 8, 20


def the_last_byte_of_a_store_is_forgotten(patch: Patch) -> None:
    real = steps.store
    patch.setattr(steps, "store", lambda m, vcpu, gpa, data: real(m, vcpu, gpa, data[:-1]))


def a_private_store_goes_to_open_memory_as_well(patch: Patch) -> None:
    real = steps.store

    def store(m: Machine, vcpu: Any, gpa: int, data: bytes) -> None:
        real(m, vcpu, gpa, data)
        for piece in resolve(m, vcpu, gpa, len(data), WRITE):
            m.storage.write(piece.address, data[: piece.length])

    patch.setattr(steps, "store", store)


def a_load_of_the_host_finds_what_a_td_has_there(patch: Patch) -> None:
    """And not the fixed pattern."""
    real = Machine._load_line

    def load_line(self: Machine, at: int, n: int) -> Any:
        if 0 <= at < self.size and self._owned[at >> 12]:
            return self.storage.vault_read(at >> 12, at & 0xFFF, n)
        return real(self, at, n)

    patch.setattr(Machine, "_load_line", load_line)


def an_exit_leaves_a_register_of_the_guest(patch: Patch) -> None:
    """R12 is not cleared when a VCPU leaves for an interrupt."""
    real = enter._leave

    def leave(m: Machine, call: Any, vcpu: Any, program: Any, left: Any) -> int:
        status = real(m, call, vcpu, program, left)
        if left.shown is None:
            call.r[12] = last_read(program)
        return status

    patch.setattr(enter, "_leave", leave)


def a_page_that_comes_back_stays_in_the_book(patch: Patch) -> None:
    real, taken = Nested.takes_back, [0]

    def takes_back(self: Nested, first: int, count: int) -> None:
        kind = self.platform.kind_of(first)
        real(self, first, count)
        taken[0] += 1
        if taken[0] % 5 == 0:
            self.platform.kind[first] = kind

    patch.setattr(Nested, "takes_back", takes_back)


def a_page_is_written_down_for_another_td(patch: Patch) -> None:
    real = Nested.gives

    def gives(self: Nested, first: int, kind: Any, tdr: int, count: int = 1) -> None:
        real(self, first, kind, tdr and tdr - 1, count)

    patch.setattr(Nested, "gives", gives)


def that_a_td_has_its_keys_is_not_noted(patch: Patch) -> None:
    real = TREATMENTS[KEY_CONFIG]

    def key_config(n: Nested, call: Any) -> Any:
        status = yield from real(n, call)
        for td in n.tds.values():
            if td.lifecycle is Lifecycle.KEYS_CONFIGURED:
                td.lifecycle = Lifecycle.HKID_ASSIGNED
        return status

    patch.setitem(TREATMENTS, KEY_CONFIG, key_config)  # type: ignore[misc]


def performed(patch: Patch, name: str, then: Any) -> None:
    """Behind each call `name` of the machine that succeeded, `then` is told of the TD's KeyID."""
    real = Machine.perform

    def perform(self: Machine, spec: Any, call: Any) -> Any:
        frame = call.r[RCX] >> 12
        td = self.tds.get(frame)
        status = yield from real(self, spec, call)
        if spec.name == name and status == Status.SUCCESS and td is not None:
            then(self, td)
        return status

    patch.setattr(Machine, "perform", perform)


def a_keyid_that_is_freed_stays_assigned(patch: Patch) -> None:
    def still(m: Machine, td: Any) -> None:
        m.platform.kot[td.hkid].state = KeyState.ASSIGNED

    performed(patch, "mng_key_freeid", still)


def a_td_forgets_to_count_down_its_pages(patch: Patch) -> None:
    real = Machine.take_back

    def take_back(self: Machine, td: Any, frame: int, size: int = 0) -> None:
        real(self, td, frame, size)
        td.children += 1

    patch.setattr(Machine, "take_back", take_back)


def pages_are_asked_for_while_the_keyid_is_there(patch: Patch) -> None:
    """The teardown does not free the KeyID before it reclaims: the module keeps every page."""
    real = teardown.kept

    def not_freed(n: Nested, lp: Any, **named: int) -> Any:
        if named["rax"] == FREE_KEY:
            return int(Status.OPERAND_BUSY)
        return (yield from real(n, lp, **named))

    patch.setattr(teardown, "kept", not_freed)


def keyids_of_a_host_that_crashed_are_lost(patch: Patch) -> None:
    real = teardown.everything

    def everything(n: Nested, cause: str) -> Any:
        free = len(n.below.hkids)
        yield from real(n, cause)
        if cause == "l1_crash":
            del n.below.hkids[free:]

    patch.setattr(teardown, "everything", everything)


def a_teardown_waits_for_ever(patch: Patch) -> None:
    def everything(n: Nested, _cause: str) -> Any:
        while True:
            yield from kept(n, n.keepers[0], rax=CACHE_WB)

    patch.setattr(teardown, "everything", everything)


def a_vcpu_that_left_counts_as_inside(patch: Patch) -> None:
    """So no epoch of its TD ever ends."""
    real = enter._leave

    def leave(m: Machine, call: Any, vcpu: Any, program: Any, left: Any) -> int:
        vcpu.td.inside[vcpu.epoch & 1] += 1
        return real(m, call, vcpu, program, left)

    patch.setattr(enter, "_leave", leave)


def a_td_with_one_vcpu_cannot_be_finalised(patch: Patch) -> None:
    """It is looked for a second one."""
    real = Machine.perform

    def perform(self: Machine, spec: Any, call: Any) -> Any:
        td = self.tds.get(call.r[RCX] >> 12)
        if spec.name == "mr_finalize" and td is not None and td.num_vcpus < 2:
            raise Refused(Status.NO_VCPUS)
        return (yield from real(self, spec, call))

    patch.setattr(Machine, "perform", perform)


def an_exit_says_how_much_others_ran(patch: Patch) -> None:
    """A register of an exit is a number that all TDs of the machine share."""
    real, entered = enter._leave, [0]

    def leave(m: Machine, call: Any, vcpu: Any, program: Any, left: Any) -> int:
        status = real(m, call, vcpu, program, left)
        entered[0] += 1
        if left.shown is None:
            call.r[13] = entered[0]
        return status

    patch.setattr(enter, "_leave", leave)


MUTATIONS = (
    Mutation("living._compare", the_last_byte_of_a_store_is_forgotten, GOOD),
    Mutation("checks.memory", a_private_store_goes_to_open_memory_as_well, GOOD),
    Mutation("checks.reach", a_load_of_the_host_finds_what_a_td_has_there, LONG),
    Mutation("checks.crossed", an_exit_leaves_a_register_of_the_guest, GOOD),
    Mutation("checks.books", a_page_that_comes_back_stays_in_the_book, GOOD, "'page'"),
    Mutation("checks.books", a_page_is_written_down_for_another_td, GOOD, "'owner'"),
    Mutation("checks.books", that_a_td_has_its_keys_is_not_noted, GOOD, "'td'"),
    Mutation("checks.books", a_td_forgets_to_count_down_its_pages, GOOD, "'td'"),
    Mutation("checks.books", a_keyid_that_is_freed_stays_assigned, GOOD, "'hkid'"),
    Mutation("checks.books", pages_are_asked_for_while_the_keyid_is_there, ALIVE, "'quarantine'"),
    Mutation("checks.nothing_left/1", keyids_of_a_host_that_crashed_are_lost, LAST, "'keys_given'"),
    Mutation("episode._rest", a_teardown_waits_for_ever, GOOD),
    Mutation("living._refused", a_vcpu_that_left_counts_as_inside, CALM),
    Mutation("l0guests.hop", a_td_with_one_vcpu_cannot_be_finalised, WITH_A_SERVICE),
    Mutation("isolation.alone_and_beside", an_exit_says_how_much_others_ran, Beside()),
)
