"""Mistakes that somebody could make in AMD's firmware, its emulation, or its host. A plain module."""

from __future__ import annotations

from typing import Any

from checkers import Beside, Mutation, Patch
from mutations import CALM, GOOD, LAST, LONG, WITH_A_SERVICE, last_read

from protocol.arch.sev.asids import Asids
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.machine import Machine, steps
from protocol.arch.sev.machine.svm import Svm
from protocol.arch.sev.nesting import Nested, teardown
from protocol.arch.sev.nesting.treatments import TREATMENTS
from protocol.arch.sev.structs import EXIT_INTR
from protocol.memory.store import PAGE, PAGE_SHIFT


def the_last_byte_of_a_store_is_forgotten(patch: Patch) -> None:
    real = steps.store
    patch.setattr(steps, "store", lambda fw, vcpu, gpa, data: real(fw, vcpu, gpa, data[:-1]))


def memory_is_not_encrypted(patch: Patch) -> None:
    patch.setattr(Machine, "seal", lambda self, _key, address, data: self.storage.write(address, data))
    patch.setattr(Machine, "plain", lambda self, _key, address, length: self.storage.read(address, length))


def a_load_of_the_host_is_decrypted(patch: Patch) -> None:
    """With the key of the ASID that the RMP names for the page, and not with the host's own."""
    real = Machine.peek

    def peek(self: Machine, address: int, length: int) -> Any:
        frame = address >> PAGE_SHIFT
        if length == PAGE and self.rmp.live and self.rmp.asid_of(frame):
            return self.plain(self.key_of(self.rmp.asid_of(frame)), address, length)
        return real(self, address, length)

    patch.setattr(Machine, "peek", peek)


def an_exit_has_what_the_guest_read_last(patch: Patch) -> None:
    """EXITINFO2 of an exit that has none is what stood in a register."""
    real = Svm._leave

    def leave(self: Svm, vmcb: int, vcpu: Any, program: Any, level: int, left: Any) -> Any:
        if left.code == EXIT_INTR:
            left = left._replace(info2=last_read(program))
        return real(self, vmcb, vcpu, program, level, left)

    patch.setattr(Svm, "_leave", leave)


def a_page_that_is_unassigned_stays_in_the_book(patch: Patch) -> None:
    real, taken = Nested._now_real, [0]

    def now_real(self: Nested, here: slice, is_real: bool) -> None:
        taken[0] += not is_real
        if is_real or taken[0] % 3:
            real(self, here, is_real)

    patch.setattr(Nested, "_now_real", now_real)


def a_context_that_is_decommissioned_stays_in_the_book(patch: Patch) -> None:
    real = TREATMENTS["SNP_DECOMMISSION"]

    def decommission(n: Nested, spec: Any, b: Any) -> Any:
        frame = b.gctx // PAGE
        context = n.platform.contexts.get(frame)
        reply = yield from real(n, spec, b)
        if context is not None:
            n.platform.contexts[frame] = context
        return reply

    patch.setitem(TREATMENTS, "SNP_DECOMMISSION", decommission)  # type: ignore[misc]


def a_guest_that_is_decommissioned_stays_in_the_book(patch: Patch) -> None:
    real = TREATMENTS["DECOMMISSION"]

    def decommission(n: Nested, spec: Any, b: Any) -> Any:
        guest = n.platform.guests.get(b.handle)
        reply = yield from real(n, spec, b)
        if guest is not None:
            n.platform.guests[b.handle] = guest
        return reply

    patch.setitem(TREATMENTS, "DECOMMISSION", decommission)  # type: ignore[misc]


def legacy_guests_of_a_host_that_crashed_are_forgotten(patch: Patch) -> None:
    real = teardown.legacy_guests

    def legacy_guests(n: Nested, cause: str) -> Any:
        if cause != "l1_crash":
            yield from real(n, cause)

    patch.setattr(teardown, "legacy_guests", legacy_guests)


def an_asid_that_is_given_back_stays_bound(patch: Patch) -> None:
    """In the emulation's book alone."""
    patch.setattr(Nested, "released", Nested.used)


def guests_of_a_host_that_crashed_are_forgotten(patch: Patch) -> None:
    real = teardown.contexts

    def contexts(n: Nested, cause: str) -> Any:
        if cause != "l1_crash":
            yield from real(n, cause)

    patch.setattr(teardown, "contexts", contexts)


def a_teardown_waits_for_ever(patch: Patch) -> None:
    def everything(n: Nested, _cause: str) -> Any:
        while True:
            yield from n.poll()

    patch.setattr(teardown, "everything", everything)


def an_asid_is_never_clean_again(patch: Patch) -> None:
    """DF_FLUSH says that it is done, and is not."""
    from protocol.arch.sev.status import Status

    patch.setattr(Asids, "flush", lambda _self: Status.SUCCESS)


def an_exit_says_how_much_others_ran(patch: Patch) -> None:
    """EXITINFO1 of an exit that has none is a number that all guests of the machine share."""
    real, entered = Svm._leave, [0]

    def leave(self: Svm, vmcb: int, vcpu: Any, program: Any, level: int, left: Any) -> Any:
        entered[0] += 1
        if left.code == EXIT_INTR:
            left = left._replace(info1=entered[0])
        return real(self, vmcb, vcpu, program, level, left)

    patch.setattr(Svm, "_leave", leave)


def the_last_host_alone_shuts_the_firmware_down(patch: Patch) -> None:
    """All hosts of the program count together who uses it."""
    boot, shut_down, up = Host.boot, Host.shut_down, [0]

    def booted(self: Host) -> Any:
        up[0] += 1
        yield from boot(self)

    def down(self: Host) -> Any:
        up[0] -= 1
        if not up[0]:
            yield from shut_down(self)

    patch.setattr(Host, "boot", booted)
    patch.setattr(Host, "shut_down", down)


LENGTHS = "observations beside"  # one record is longer than the other

MUTATIONS = (
    Mutation("living._compare", the_last_byte_of_a_store_is_forgotten, GOOD),
    Mutation("checks.memory", memory_is_not_encrypted, GOOD),
    Mutation("checks.reach", a_load_of_the_host_is_decrypted, LONG, kind="snp"),
    Mutation("checks.crossed", an_exit_has_what_the_guest_read_last, GOOD),
    Mutation("checks.books", a_page_that_is_unassigned_stays_in_the_book, LONG, "'page'", kind="snp"),
    Mutation("checks.books", a_context_that_is_decommissioned_stays_in_the_book, LONG, "'gctx'", kind="snp"),
    Mutation("checks.books", a_guest_that_is_decommissioned_stays_in_the_book, LAST, "'sev_guest'"),
    Mutation("checks.books", an_asid_that_is_given_back_stays_bound, GOOD, "'asid'"),
    Mutation(
        "checks.nothing_left/1", guests_of_a_host_that_crashed_are_forgotten, LONG, "'gctx'", kind="snp"
    ),
    Mutation(
        "checks.nothing_left/1", legacy_guests_of_a_host_that_crashed_are_forgotten, LAST, "'sev_guests'"
    ),
    Mutation("episode._rest", a_teardown_waits_for_ever, GOOD),
    Mutation("living._refused", an_asid_is_never_clean_again, CALM),
    Mutation("l0guests.hop", an_asid_is_never_clean_again, WITH_A_SERVICE),
    Mutation("isolation.alone_and_beside", an_exit_says_how_much_others_ran, Beside()),
    Mutation(
        "isolation.alone_and_beside",
        the_last_host_alone_shuts_the_firmware_down,
        Beside(),
        "observations beside",
    ),
)
