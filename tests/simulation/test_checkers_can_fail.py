"""Each checker of the soak is proved able to fail: by a mutation of the code that it guards.

A mutation is a mistake that somebody could make. The list names, for each checker, one mistake and where it
is put; without the mutation the very same run holds, which is shown first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mutations import EVERYWHERE, a_register_says_how_much_others_asked, an_lpid_is_lost

from protocol.arch import architectures, load
from protocol.arch.pef.machine.svm import OutOfUnits, SecureMemory
from protocol.arch.pef.nesting import Nested as NestedPef
from protocol.arch.pef.nesting import teardown
from protocol.arch.s390.compose import Rig
from protocol.arch.s390.linked import Server, SieAnswer
from protocol.arch.s390.nesting import Nested
from protocol.errors import RemoteProtocolError
from protocol.hosting import Gathering
from protocol.hosting.in_steps import InSteps
from protocol.hosting.registry import Registry
from protocol.memory.physical import Physical
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.locks import Locks
from protocol.soak import Options, Outcome, episode, hosted, soak
from protocol.soak.isolation import alone_and_beside
from protocol.soak.living import TAG
from protocol.soak.options import Tally, Violation

pytestmark = pytest.mark.slow

SEED, SEEDS, STEPS = 1, 4, 20_000
Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


def a_store_of_a_guest_is_lost(patch: Patch) -> None:
    """Every third store of a secret into the vault goes nowhere."""
    real, seen = Physical.vault_write, [0]

    def write(self: Physical, frame: int, offset: int, data: bytes) -> None:
        seen[0] += TAG in data
        if TAG not in data or seen[0] % 3:
            real(self, frame, offset, data)

    patch.setattr(Physical, "vault_write", write)


def the_machine_keeps_a_copy_outside_of_its_vault(patch: Patch) -> None:
    real = Physical.vault_write

    def write(self: Physical, frame: int, offset: int, data: bytes) -> None:
        real(self, frame, offset, data)
        self.write((frame << PAGE_SHIFT) + offset, data)

    patch.setattr(Physical, "vault_write", write)


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


def an_exit_carries_what_the_guest_read(patch: Patch) -> None:
    """The answer of SIE has a guest's results in it, not only in its program."""
    real = Server._enter

    def enter(self: Server, cpu: Any, request: Any) -> Any:
        answer = yield from real(self, cpu, request)
        read = [bytes.fromhex(done["hex"]) for done in answer.program.results if "hex" in done]
        return SieAnswer((answer.result, *read), answer.program) if read else answer

    patch.setattr(Server, "_enter", enter)


def a_book_keeps_an_entity_that_is_gone(patch: Patch) -> None:
    """A guest's CPU is destroyed below, and stays in the emulation's book."""
    from protocol.arch.s390.nesting import vcpu

    patch.setattr(vcpu, "untrack_cpu", lambda _nested, _secure: None)


def a_pool_gives_a_frame_twice(patch: Patch) -> None:
    real, given = Pool.give, [0]

    def give(self: Pool, frames: Any) -> None:
        listed = [int(frame) for frame in frames]
        given[0] += 1
        real(self, [*listed, *listed[:1]] if given[0] % 3 == 0 else listed)

    patch.setattr(Pool, "give", give)


def the_end_of_a_host_is_not_noticed(patch: Patch) -> None:
    """A host that ends for good is not torn down; one whose seat is taken again is."""
    real = Rig.end

    def nothing() -> Any:
        yield from ()

    def end(self: Rig, *arguments: Any) -> Any:
        again = sys._getframe(1).f_code.co_name == "kill"
        return real(self, *arguments) if again else nothing()

    patch.setattr(Rig, "end", end)


def a_host_that_did_nothing_wrong_is_refused(patch: Patch) -> None:
    """The ultravisor says that it has no secure memory, and it has."""
    real, asked = SecureMemory.reserve, [0]

    def reserve(self: SecureMemory, *arguments: int) -> Any:
        asked[0] += 1
        if asked[0] % 5 == 0:
            raise OutOfUnits
        return real(self, *arguments)

    patch.setattr(SecureMemory, "reserve", reserve)


def a_level_raises(patch: Patch) -> None:
    real, asked = Nested.account, [0]

    def account(self: Nested, *arguments: Any, **named: Any) -> None:
        asked[0] += 1
        assert asked[0] % 50, "an invariant of the emulation"
        real(self, *arguments, **named)

    patch.setattr(Nested, "account", account)


def a_server_closes_the_link_of_who_did_nothing(patch: Patch) -> None:
    real, asked = Server.__call__, [0]

    def serve(self: Server, effect: Any) -> Any:
        asked[0] += 1
        if asked[0] % 400 == 0:
            raise RemoteProtocolError("shape", "nothing is wrong with it")
        return real(self, effect)

    patch.setattr(Server, "__call__", serve)


def a_teardown_never_ends(patch: Patch) -> None:
    def endless(nested: NestedPef, cause: str) -> Any:
        while True:
            yield from nested.below.memory.tlbie(nested.cpu_below(nested.keeper), 0, 0)

    patch.setattr(teardown, "everything", endless)
    patch.setattr(episode, "RESTLESS", 5_000)


def one_key_makes_two_children(patch: Patch) -> None:
    patch.setattr(InSteps, "_replayed", lambda *_: None)


def a_stranger_finds_a_child(patch: Patch) -> None:
    """Whoever asks for a child by its name gets it."""
    real = Registry.find

    def find(self: Registry, requester: Any, name: bytes) -> Any:
        return self.children.get(name) or real(self, requester, name)

    patch.setattr(Registry, "find", find)


def what_was_not_durable_is_answered(patch: Patch) -> None:
    """Replies do not wait for the disk, which is slow; then the process dies."""
    patch.setattr(Gathering, "after", lambda _self, then: then())
    patch.setattr(hosted, "COMMITS", 0.002)


def a_guest_host_sees_the_locks_of_its_sibling(patch: Patch) -> None:
    held: set[Any] = set()

    def made(self: Locks) -> None:
        self._held = held

    patch.setattr(Locks, "__init__", made)


MUTATIONS: list[tuple[str, str, Mutation]] = [
    ("history", "s390", a_store_of_a_guest_is_lost),
    ("history", "tdx", a_store_of_a_guest_is_lost),
    ("secrecy", "s390", the_machine_keeps_a_copy_outside_of_its_vault),
    ("secrecy", "tdx", the_machine_keeps_a_copy_outside_of_its_vault),
    ("secrecy", "s390", an_emulation_reads_the_vault_for_its_host),
    ("secrecy", "s390", an_exit_carries_what_the_guest_read),
    ("books", "s390", a_book_keeps_an_entity_that_is_gone),
    ("books", "pef", an_lpid_is_lost),
    ("frames", "s390", a_pool_gives_a_frame_twice),
    ("nothing_left", "s390", the_end_of_a_host_is_not_noticed),
    ("service", "pef", a_host_that_did_nothing_wrong_is_refused),
    ("level", "s390", a_level_raises),
    ("protocol", "s390", a_server_closes_the_link_of_who_did_nothing),
    ("liveness", "pef", a_teardown_never_ends),
    ("hosting", "pef", one_key_makes_two_children),
    ("hosting", "pef", a_stranger_finds_a_child),
    ("hosting", "pef", what_was_not_durable_is_answered),
]


def run(arch: str, seed: int = SEED) -> Outcome:
    return soak(Options(seed=seed, steps=STEPS, arch=arch), {arch: load(arch)})


@pytest.mark.parametrize("arch", sorted({arch for _, arch, _ in MUTATIONS}))
def test_without_a_mutation_the_same_run_holds(arch: str) -> None:
    assert run(arch).failure is None


@pytest.mark.parametrize(
    ("check", "arch", "mutation"),
    MUTATIONS,
    ids=[f"{mutation.__name__}-{arch}" for _, arch, mutation in MUTATIONS],
)
def test_a_mutation_is_found(check: str, arch: str, mutation: Mutation, monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    failures = (run(arch, seed).failure for seed in range(SEED, SEED + SEEDS))
    failure = next(filter(None, failures), None)
    assert failure is not None, "nobody noticed"
    assert failure.check == check, failure


@pytest.mark.parametrize("arch", architectures())
@pytest.mark.parametrize("mutation", EVERYWHERE, ids=lambda mutation: mutation.__name__)
def test_a_mutation_is_found_on_every_architecture(
    arch: str, mutation: Callable[[Patch, str], None], monkeypatch: Patch
) -> None:
    mutation(monkeypatch, arch)
    failure = run(arch).failure
    assert failure is not None, "nobody noticed"
    assert failure.check in EVERYWHERE[mutation], failure


def test_a_life_is_the_same_beside_a_hostile_host(monkeypatch: Patch) -> None:
    arch = load("s390")
    alone_and_beside(arch, 1, "seed", Tally())
    a_guest_host_sees_the_locks_of_its_sibling(monkeypatch)
    with pytest.raises(Violation, match=r"isolation|service"):
        alone_and_beside(arch, 1, "seed", Tally())


def test_only_the_comparison_sees_what_siblings_share(monkeypatch: Patch) -> None:
    """The victim's software works as ever; the first observation that differs is named."""
    arch = load("pef")
    alone_and_beside(arch, 1, "seed", Tally())
    a_register_says_how_much_others_asked(monkeypatch)
    with pytest.raises(Violation, match=r"isolation: .* observation \d+ is"):
        alone_and_beside(arch, 1, "seed", Tally())
