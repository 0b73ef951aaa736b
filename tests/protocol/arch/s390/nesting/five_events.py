"""The five events that show whether nesting nests: each a step of a host at depth 2, or of a level below it.

A call that secures a page, a first touch, an exit, a frame that L0 swaps under the guest of depth 2, and an
L1 that dies in the middle of a call. A driver runs the steps inline, or parks them at every message; what
they check is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from nested_host import IMAGE, IMAGE_AT, Guest, NestedHost

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.compose import Rig
from protocol.arch.s390.guest import Diag, GuestStep, Read, SetCpu, Touch
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.nesting import Nested, memory
from protocol.arch.s390.structs import (
    EXECUTED,
    GPRS,
    SIE_GPRS,
    SIE_ICPTCODE,
    CreateConfig,
    Outcome,
    SieExit,
)
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE, PAGE_SHIFT

PAGE_OF_EVENTS = 0x20
SECRET = b"known to the guest alone"
WAIT, SECURE_INSTRUCTION = 0x1C, 0x68


@dataclass
class Scene:
    """A rig with one host, its guest, and what the levels below have of it."""

    host: NestedHost
    guest: Guest

    @property
    def rig(self) -> Rig:
        return self.host.rig

    def nested(self) -> list[Nested]:
        """The emulations, from L0's up."""
        levels = (*self.rig.levels, self.host.seat.level)
        return [level for level in levels if isinstance(level, Nested)]

    def frames(self, page: int) -> list[int]:
        """Where a page of the guest lies: frame of its host, of the level below it, down to the machine."""
        frames = [self.guest.pages[page]]
        for level in reversed(self.nested()):
            frames.append(level.frame_below(frames[-1]))
        return frames

    def is_private(self, page: int) -> bool:
        """Does the real Ultravisor hold it as this guest's?"""
        return bool(self.rig.machines[0].state[self.frames(page)[-1]] == PageState.SECURE)


def scene(host: NestedHost) -> Step[Scene]:
    """A running guest on an initialised host."""
    yield from host.init()
    guest = yield from host.boot()
    made = Scene(host, guest)
    tables = {level.configs[handle].space.table.asce for level in made.nested() for handle in level.configs}
    assert len(tables | {guest.table.asce}) == host.rig.depth + 1, "every level has a table of its own"
    frames = made.frames(IMAGE_AT >> PAGE_SHIFT)
    assert len(set(frames)) == len(frames) == host.rig.depth + 1, "a page has another frame at every level"
    return made


def until_it_waits(scene: Scene, *steps: GuestStep) -> Step[list[dict[str, object]]]:
    """Let the guest do `steps` and do for it what a kernel does; returns what the steps gave."""
    host, guest = scene.host, scene.guest
    guest.vcpus[0].program.steps.extend(steps)
    for _ in range(20):
        left = yield from host.enter(guest)
        if isinstance(left, SieExit):
            assert left.code == WAIT, left
            return host.results(guest)
        yield from answer(scene, left)
    raise AssertionError("a guest that gets nowhere")


def answer(scene: Scene, fault: Fault) -> Step[None]:
    """Map what is not mapped, import what is not secure."""
    page = fault.address >> PAGE_SHIFT
    if fault.code in z.NOT_MAPPED:
        scene.host.map(scene.guest, page)
    else:
        assert fault.code == z.NON_SECURE_ACCESS, fault
        outcome = yield from scene.host.convert(scene.guest, page)
        assert outcome.rc == EXECUTED, outcome


# -- the events --------------------------------------------------------------------------------------


def convert_to_secure(scene: Scene) -> Step[None]:
    """A page with data of the host becomes the guest's: zero for the guest, out of reach for the host."""
    host, guest = scene.host, scene.guest
    address = host.map(guest, PAGE_OF_EVENTS, b"left by the host")
    outcome = yield from host.convert(guest, PAGE_OF_EVENTS)
    assert outcome == Outcome(EXECUTED)
    assert scene.is_private(PAGE_OF_EVENTS)
    assert host.is_secure(address)
    results = yield from until_it_waits(scene, Read(PAGE_OF_EVENTS << PAGE_SHIFT, 16))
    assert results == [{"hex": bytes(16).hex()}]


def first_touch(scene: Scene) -> Step[None]:
    """A page that nobody mapped: two faults for its host, and then it holds what the guest stored."""
    at = PAGE_OF_EVENTS + 1 << PAGE_SHIFT
    host, guest = scene.host, scene.guest
    left = yield from host.enter(guest, Touch(at + 5, True, SECRET))
    assert left == z.program(z.PAGE_TRANSLATION, at + 5, True)
    assert isinstance(left, Fault)
    yield from answer(scene, left)
    left = yield from host.enter(guest)
    assert isinstance(left, Fault) and left.code == z.NON_SECURE_ACCESS
    yield from answer(scene, left)
    results = yield from until_it_waits(scene, Read(at + 5, len(SECRET)))
    assert results == [{}, {"hex": SECRET.hex()}]
    assert scene.is_private(PAGE_OF_EVENTS + 1)


def sie_exit(scene: Scene) -> Step[None]:
    """A secure instruction: the host sees what the Ultravisor shows, and its answer reaches the guest."""
    host, guest = scene.host, scene.guest
    left = yield from host.enter(guest, SetCpu(gprs=((1, 0x11), (2, 0x22), (7, 0x77))), Diag(0x500))
    assert isinstance(left, SieExit)
    assert (left.code, left.ipa, left.ipb) == (SECURE_INSTRUCTION, 0x8302, 0x50000000)
    assert left.gprs[:8] == (0, 0x11, 0x22, 0, 0, 0x500, 0, 0), "register 7 is the guest's alone"
    block = host.read(guest.vcpus[0].block, 0x400)
    assert isinstance(block, bytes)
    assert block[SIE_ICPTCODE] == SECURE_INSTRUCTION
    assert GPRS.unpack_from(block, SIE_GPRS) == left.gprs
    host.write(guest.vcpus[0].block + SIE_GPRS + 16, (0x5A5A).to_bytes(8, "big"))
    results = yield from until_it_waits(scene)
    assert results == [{}, {"gprs": {"2": "0x5a5a"}}]


def swap_below(scene: Scene, level: int = 0) -> Step[None]:
    """L(level) puts another frame under a page of the guest; its own guest host's books do not move.

    A step of that level, not of the host.
    """
    nested = scene.nested()
    page = IMAGE_AT >> PAGE_SHIFT
    frames = scene.frames(page)
    above = [books(each) for each in nested[level + 1 :]]
    swapped = yield from memory.swap(nested[level], frames[-2 - level])
    assert swapped
    moved = scene.frames(page)
    place = len(frames) - 1 - level
    assert moved[:place] == frames[:place], "what lies above sees the same frames"
    assert moved[place] != frames[place]
    assert not scene.is_private(page), "it is outside"
    assert scene.host.is_secure(frames[0] << PAGE_SHIFT), "but the host cannot tell"
    assert [books(each) for each in nested[level + 1 :]] == above


def after_the_swap(scene: Scene) -> Step[None]:
    """The guest reads what it always read; the host is not asked for anything."""
    left = yield from scene.host.enter(scene.guest, Read(IMAGE_AT, len(IMAGE)))
    assert isinstance(left, SieExit) and left.code == WAIT
    assert scene.host.results(scene.guest) == [{"hex": IMAGE.hex()}]
    assert scene.is_private(IMAGE_AT >> PAGE_SHIFT)


def books(level: Nested) -> object:
    """Everything that a level knows of its guest host's secure guests."""
    return (
        sorted(level.configs),
        sorted(level.secure_cpus),
        level.page_owner.nonzero()[0].tolist(),
        dict(level.away),
        level.attention.tobytes(),
        [sorted(space.segments.items()) for space in level.shadows.spaces.values()],
    )


def call_that_is_not_finished(host: NestedHost) -> Step[Outcome]:
    return host.uvc(block_that_is_not_finished(host), cpu=1)


def block_that_is_not_finished(host: NestedHost) -> bytes:
    """Create a configuration: donated areas, a shadow, an answer that must not get lost with its owner."""
    profile = host.rig.profile
    base = host.pool.take_run(profile.conf_base_len // PAGE) << PAGE_SHIFT
    variable = host.pool.take_run(profile.variable_len(1 << 20) // PAGE) << PAGE_SHIFT
    sca = host.pool.take_run(4) << PAGE_SHIFT
    fields = CreateConfig(base, variable, 0, 0, 1 << 20, sca, host.pool.take() << PAGE_SHIFT | 0x107)
    return bytes(fields.pack())


def nothing_of_l1_is_left(rig: Rig) -> None:
    """L1 is gone: the machine has no secure guest, and L0 has all of its memory."""
    machine = rig.machines[0]
    assert not machine.configs and not machine.secure_cpus
    donated = set((machine.state == PageState.DONATED).nonzero()[0].tolist())
    assert donated == set(machine.base), "only what L0 itself donated"
    assert not ((machine.state != PageState.NORMAL) & (machine.state != PageState.DONATED)).any()
    l0 = rig.chain[0]
    assert l0.promised == 0
    assert l0.pool.free == machine.base.start - 256
