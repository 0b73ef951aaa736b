"""The audit finds what stands in one of two books only, whichever that is, and says whose it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nested_host import Guest, NestedHost

from protocol.arch.s390.audit import audit, leaks
from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.guest import Touch, Uvc
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import EXECUTED, SHARE, block
from protocol.effects import run
from protocol.memory.store import PAGE_SHIFT

SHARED = 8


class Scene:
    """Two hosts, the second with a guest that shares a page which its host pinned."""

    def __init__(self, depth: int) -> None:
        self.rig: Rig = compose(PROFILES["small"], depth, 2)
        self.hosts = [NestedHost(self.rig, seat) for seat in range(2)]
        for host in self.hosts:
            run(host.init())
        host = self.hosts[1]
        self.guest: Guest = run(host.boot(vcpus=2))
        address = host.map(self.guest, SHARED)
        assert run(host.convert(self.guest, SHARED)).rc == EXECUTED
        uvcb = bytes(block(0x30, 0x1000, SHARE, SHARED << PAGE_SHIFT))
        run(host.enter(self.guest, Touch(SHARED << 12, True, uvcb), Uvc(SHARED << 12)))
        assert run(host.page_call(0x0341, address)).rc == EXECUTED
        level = host.seat.level
        assert isinstance(level, Nested)
        self.level = level
        self.machine = self.rig.machines[0]


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def test_each_host_has_what_is_its_own(scene: Scene) -> None:
    answer = audit(scene.rig)
    assert answer["leaks"] == []
    first, second = answer["hosts"]
    assert first["te"] == {"configs": 0, "cpus": 0, "pins": 0, "shared_pages": 0}
    assert (first["donated_pages"], first["secure_pages"]) == (0x200, 0)
    assert second["te"] == {"configs": 1, "cpus": 2, "pins": 1, "shared_pages": 1}
    assert second["donated_pages"] == 0x200 + 16 + 3 + 2
    assert second["secure_pages"] == 3
    assert second["tracked"] == {
        "configs": 1,
        "cpus": 2,
        "pins": 1,
        "shared_pages": 1,
        "shadow_blocks": 2,
        "shadow_tables": 1,
    }


def test_at_depth_0_there_is_one_book() -> None:
    rig = compose(PROFILES["small"], 0)
    host = NestedHost(rig)
    run(host.init())
    run(host.boot())
    answer = audit(rig)
    assert answer["leaks"] == []
    assert answer["hosts"][0]["te"] == {"configs": 1, "cpus": 1, "pins": 0, "shared_pages": 0}


def forget_config(scene: Scene) -> None:
    del scene.level.configs[scene.guest.handle]


def forget_cpu(scene: Scene) -> None:
    del scene.level.secure_cpus[scene.guest.vcpus[0].handle]


def forget_page(scene: Scene) -> None:
    scene.level.page_owner[scene.guest.pages[0]] = 0


def forget_pin(scene: Scene) -> None:
    scene.level.pins.clear()


def invent_pin(scene: Scene) -> None:
    scene.level.pins[scene.guest.pages[0]] = 1


def lose_in_the_machine(scene: Scene) -> None:
    frames = [scene.guest.pages[0]]
    for level in (scene.level, *reversed(scene.rig.levels[1:])):
        frames.append(level.frame_below(frames[-1]))
    scene.machine.state[frames[-1]] = PageState.NORMAL


def donate_in_the_machine(scene: Scene) -> None:
    plain = (scene.machine.state == PageState.NORMAL).nonzero()[0]
    scene.machine.state[plain[-1]] = PageState.DONATED


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (forget_config, "configs"),
        (forget_cpu, "cpus"),
        (forget_page, "pages"),
        (forget_pin, "pins"),
        (invent_pin, "pins"),
        (lose_in_the_machine, "pages"),
        (donate_in_the_machine, "donated"),
    ],
)
def test_what_only_one_book_has_is_a_leak(scene: Scene, damage: Callable[[Scene], None], kind: str) -> None:
    damage(scene)
    found = leaks(scene.rig)
    assert kind in {leak.kind for leak in found}
    assert all(leak.id.startswith("0x") for leak in found)


def test_a_leak_of_a_tracked_thing_names_its_host() -> None:
    scene = Scene(1)
    scene.machine.configs.clear()
    assert [(leak.kind, leak.host, leak.id) for leak in leaks(scene.rig)] == [
        ("configs", 1, hex(scene.guest.handle))
    ]


def test_what_is_in_quarantine_is_named() -> None:
    scene = Scene(1)
    scene.level.quarantine.add(0x123, 4, "for the test")
    assert ("quarantined", 1, "0x123") in [tuple(leak) for leak in leaks(scene.rig)]
