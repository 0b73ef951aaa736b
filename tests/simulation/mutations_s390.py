"""Mistakes that somebody could make in the Ultravisor, its emulation, or its host. A plain module."""

from __future__ import annotations

from typing import Any

from checkers import Beside, Mutation, Patch, Trial
from mutations import CALM, GOOD, LAST, WITH_A_SERVICE, last_read

from protocol.arch.s390.machine import Machine, guest_storage, steps, vm
from protocol.arch.s390.machine.sie import Sie
from protocol.arch.s390.nesting import TREATMENTS, Nested, memory, teardown, vcpu
from protocol.arch.s390.nesting.frames import Frames
from protocol.arch.s390.structs import NODATA, block
from protocol.memory.store import PAGE, PAGE_SHIFT


def the_last_byte_of_a_store_is_forgotten(patch: Patch) -> None:
    real = steps.store
    patch.setattr(steps, "store", lambda sie, secure, address, data: real(sie, secure, address, data[:-1]))


def a_secure_store_goes_to_open_memory_as_well(patch: Patch) -> None:
    real = steps.store

    def store(sie: Sie, secure: Any, address: int, data: bytes) -> Any:
        fault = real(sie, secure, address, data)
        if fault is None:
            (frame, *_) = guest_storage.frames(sie, secure, address, len(data), write=True)  # type: ignore[misc]
            sie.uv.storage.write(frame << PAGE_SHIFT | address % PAGE, data)
        return fault

    patch.setattr(steps, "store", store)


def an_emulation_reads_the_vault_for_its_host(patch: Patch) -> None:
    """A load of a secure page is answered with what the guest has there."""

    def peek(self: Any, address: int, length: int) -> bytes:
        machine = self.below.memory
        frame = int(self.slots[address >> PAGE_SHIFT])
        while not hasattr(machine, "storage"):
            frame = int(machine.slots[frame]) if hasattr(machine, "slots") else frame
            machine = machine.below.memory if hasattr(machine, "below") else machine.memory
        data: bytes = machine.storage.vault_read(frame, 0, PAGE)
        return data[address % PAGE :][:length]

    patch.setattr(Nested, "guarded_peek", peek)


def an_exit_leaves_a_register_of_the_guest(patch: Patch) -> None:
    """The register that the host sees at an interception is not zero."""
    real = Sie._left

    def left(self: Sie, at: int, secure: Any, program: Any, level: int, result: Any) -> Any:
        found = real(self, at, secure, program, level, result)
        if hasattr(found, "gprs") and last_read(program):
            found = found._replace(gprs=(*found.gprs[:12], last_read(program), *found.gprs[13:]))
        return found

    patch.setattr(Sie, "_left", left)


def a_cpu_that_is_destroyed_stays_in_the_book(patch: Patch) -> None:
    patch.setattr(vcpu, "untrack_cpu", lambda _nested, _secure: None)


def a_configuration_that_is_destroyed_stays_in_the_book(patch: Patch) -> None:
    real = TREATMENTS["destroy_config"]

    def destroy(nested: Nested, spec: Any, cpu: Any, uvcb: bytes) -> Any:
        config = nested.configs[NODATA.unpack_from(uvcb)[0]]
        outcome = yield from real(nested, spec, cpu, uvcb)  # type: ignore[misc]
        nested.configs.setdefault(config.handle, config)
        return outcome

    patch.setitem(TREATMENTS, "destroy_config", destroy)  # type: ignore[misc]


def a_page_that_comes_back_stays_in_the_book(patch: Patch) -> None:
    real, taken = Frames.untrack_page, [0]

    def untrack(self: Frames, frame: int) -> None:
        taken[0] += 1
        if taken[0] % 5:
            real(self, frame)

    patch.setattr(Frames, "untrack_page", untrack)


def a_level_that_pinned_to_look_forgets_to_unpin(patch: Patch) -> None:
    def nothing(*_: Any, **__: Any) -> Any:
        yield from ()

    real = memory._mapped_here

    def mapped_here(
        nested: Nested, issuer: Any, config: Any, page: int, frame: int, code: int, keep: bool
    ) -> Any:
        if code == memory.UNPIN:
            return nothing()
        return real(nested, issuer, config, page, frame, code, keep)

    patch.setattr(memory, "_mapped_here", mapped_here)


def what_a_cpu_was_donated_is_not_given_back(patch: Patch) -> None:
    """By the Ultravisor, a frame of it each time."""
    real = Machine.release

    def release(self: Machine, frames: Any) -> None:
        real(self, frames)
        if len(frames):
            self.donate(list(frames)[:1])

    patch.setattr(Machine, "release", release)


def configurations_are_destroyed_before_their_cpus(patch: Patch) -> None:
    """The Ultravisor refuses that, and keeps what was lent for them."""
    real = teardown._cpu

    def cpu(nested: Nested, secure: Any, cause: str) -> Any:
        if secure.config.handle in nested.configs:
            yield from teardown._config(nested, secure.config, cause, False)
        yield from real(nested, secure, cause)

    patch.setattr(teardown, "_cpu", cpu)


def what_a_host_had_that_crashed_is_forgotten(patch: Patch) -> None:
    real = teardown.everything

    def everything(nested: Nested, cause: str, late: bool) -> Any:
        if cause == "l1_crash":
            nested.secure_cpus.clear()
            nested.configs.clear()
        yield from real(nested, cause, late)

    patch.setattr(teardown, "everything", everything)


def a_teardown_waits_for_ever(patch: Patch) -> None:
    def everything(nested: Nested, *_: Any, **__: Any) -> Any:
        while True:
            yield from nested.keeper.uvc(block(0x40, 0x0121, NODATA, 0))

    patch.setattr(teardown, "everything", everything)


def an_asce_of_a_configuration_that_is_gone_is_in_use(patch: Patch) -> None:
    real = vm._end

    def end(uv: Machine, config: Any) -> Any:
        outcome = real(uv, config)
        uv.asces.add(config.asce)
        return outcome

    patch.setattr(vm, "_end", end)


def an_exit_says_how_much_others_ran(patch: Patch) -> None:
    """A register of an interception is a number that all guests of the machine share."""
    real, entered = Sie._left, [0]

    def left(self: Sie, at: int, secure: Any, program: Any, level: int, result: Any) -> Any:
        found = real(self, at, secure, program, level, result)
        entered[0] += 1
        if hasattr(found, "gprs"):
            found = found._replace(gprs=(*found.gprs[:12], entered[0], *found.gprs[13:]))
        return found

    patch.setattr(Sie, "_left", left)


SWAPPING = Trial(1, steps=12_000, without=frozenset({"kill", "reset", "starve"}))

MUTATIONS = (
    Mutation("living._compare", the_last_byte_of_a_store_is_forgotten, GOOD),
    Mutation("checks.memory", a_secure_store_goes_to_open_memory_as_well, GOOD),
    Mutation("checks.reach", an_emulation_reads_the_vault_for_its_host, GOOD),
    Mutation("checks.crossed", an_exit_leaves_a_register_of_the_guest, GOOD),
    Mutation("checks.books", a_configuration_that_is_destroyed_stays_in_the_book, GOOD, "'configs'"),
    Mutation("checks.books", a_cpu_that_is_destroyed_stays_in_the_book, GOOD, "'cpus'"),
    Mutation("checks.books", a_page_that_comes_back_stays_in_the_book, GOOD, "'pages'"),
    Mutation("checks.books", a_level_that_pinned_to_look_forgets_to_unpin, SWAPPING, "'pins'"),
    Mutation("checks.books", what_a_cpu_was_donated_is_not_given_back, GOOD, "'donated'"),
    Mutation("checks.books", configurations_are_destroyed_before_their_cpus, GOOD, "'quarantined'"),
    Mutation("checks.nothing_left/1", what_a_host_had_that_crashed_is_forgotten, LAST, "'configs'"),
    Mutation("episode._rest", a_teardown_waits_for_ever, GOOD),
    Mutation("living._refused", an_asce_of_a_configuration_that_is_gone_is_in_use, CALM),
    Mutation("l0guests.hop", an_asce_of_a_configuration_that_is_gone_is_in_use, WITH_A_SERVICE),
    Mutation("isolation.alone_and_beside", an_exit_says_how_much_others_ran, Beside()),
)
