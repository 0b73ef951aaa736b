"""`--explain`: each refused call says which level refused it, by which check; all else stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from driver import Json, Keyboard, in_process
from s390_blocks import CALLS, PAGE, uvcb
from s390_field import Host
from s390_guest import Image, SecureGuest, boot_guest
from s390_violations import SCENES

from protocol.arch.s390.calls import CALLS as TABLE
from protocol.arch.s390.slice import SLICE


class Explained:
    """A console that explains itself; it keeps what it explained."""

    def __init__(self, depth: int, **options: Any) -> None:
        self.console = SLICE.explaining(in_process("s390", depth, **options))
        self.said: list[Json] = []

    def answer(self, request: Json) -> Json:
        answer = self.console.answer(request)
        if "explain" in answer:
            self.said.append(answer["explain"])
        return answer


@pytest.fixture
def explained(depth: int) -> Explained:
    return Explained(depth, hosts=2)


@pytest.fixture
def watched(explained: Explained, depth: int) -> Iterator[Host]:
    yield Host(Keyboard(explained, depth))
    assert explained.answer({"op": "audit"})["ok"]["leaks"] == []


def here(depth: int) -> str:
    return f"emulation at L{depth}" if depth else "L0 machine"


def test_what_every_call_checks_is_checked_by_the_level_that_the_host_meets(
    watched: Host, explained: Explained, depth: int
) -> None:
    watched.call("verify", handle=1).refused(0x0003)
    watched.init()
    watched.call("verify", handle=1).refused(0x0020)
    watched.call("destroy_cpu", handle=1).refused(0x0021)
    watched.uvc(uvcb("verify", 0x48)).refused(0x0005)
    watched.uvc(b"\0\x40\x7f\xff" + bytes(60)).refused(0x0002)
    assert [(one["level"], one["check"]) for one in explained.said] == [
        (here(depth), "Ultravisor not initialised"),
        (here(depth), "configuration handle"),
        (here(depth), "CPU handle"),
        (here(depth), "length of the block"),
        (here(depth), "call not installed"),
    ]


def test_what_the_machine_alone_can_know_comes_from_the_machine(watched: Host, explained: Explained) -> None:
    watched.init()
    image = Image.build(watched)
    guest = SecureGuest.create(watched)
    guest.set_params(image.header[:-1] + bytes((image.header[-1] ^ 1,))).refused(0x0108, 0x0007)
    guest.set_params(image.header).done()
    guest.verify().refused(0x0102, 0x001D)
    assert [(one["level"], one["check"]) for one in explained.said] == [
        ("L0 machine", "header or encrypted area damaged"),
        ("L0 machine", "number of pages"),
    ]


def test_what_an_emulation_refuses_by_itself_is_its_own(
    watched: Host, explained: Explained, depth: int
) -> None:
    watched.init()
    watched.call("create_config", **watched.plan_config(sca=0)).refused(0x010C)
    assert [(one["level"], one["check"]) for one in explained.said] == [(here(depth), "SCA origin is zero")]


def test_a_busy_answer_says_so(watched: Host, explained: Explained, depth: int) -> None:
    watched.init()
    guest = boot_guest(watched)
    watched.cpu(1, running=True)
    at = watched.alloc()
    parked = watched.park(uvcb("cpu_reset", handle=guest.cpus[0].handle), 1, at)
    assert watched.call("cpu_reset", handle=guest.cpus[0].handle).cc == 2
    assert explained.said[-1] == {"level": here(depth), "check": "another call holds the lock of the entity"}
    watched.resume(parked, at, PAGE).refused(0x0101)
    assert explained.said[-1]["rc"] == "0x0101", "what is resumed is explained, too"


def test_a_call_that_is_done_in_part_says_so(depth: int) -> None:
    """It asks for the same block again, and no other call is in its way."""
    explained = Explained(depth, profile="partial")
    host = Host(Keyboard(explained, depth))
    host.init()
    reply = host.uvc(uvcb("create_config", **host.plan_config()))
    assert reply.cc == 3
    (said,) = explained.said
    assert said["check"] == "a part is done: issue the same block again"
    assert said["level"] == "L0 machine"


def test_a_host_that_was_killed_is_explained_as_well(watched: Host, explained: Explained, depth: int) -> None:
    assert watched.ok("kill") == {}
    watched.forget()
    watched.call("verify", handle=1).refused(0x0003)
    assert explained.said[-1]["level"] == here(depth)


def test_a_sibling_is_explained_by_its_own_level(watched: Host, explained: Explained, depth: int) -> None:
    watched.init()
    other = watched.sibling(1)
    other.call("verify", handle=1).refused(0x0003)
    watched.call("verify", handle=1).refused(0x0020)
    assert [one["check"] for one in explained.said] == ["Ultravisor not initialised", "configuration handle"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_every_code_of_every_scene_names_a_check_of_its_row(depth: int, name: str) -> None:
    console = Explained(depth)
    scene = SCENES[name](Host(Keyboard(console, depth)))
    row = TABLE[CALLS[scene.call].code]
    texts = {check.text: check.code for check in row.checks}
    before = len(console.said)
    for violation in scene.violations or [None]:
        reply = scene.attempt(*([violation] if violation else []))
        reply.refused()
        said = console.said[-1]
        assert texts[said["check"]] == reply.rc
        assert (int(said["rc"], 16), int(said["rrc"], 16)) == (reply.rc, reply.rrc)
        assert said["level"] in ("L0 machine", *(f"emulation at L{level + 1}" for level in range(depth)))
    assert len(console.said) >= before + len(scene.violations)


@pytest.mark.slow
def test_a_console_that_explains_answers_the_same_otherwise(depth: int) -> None:
    """And one that does not never says why."""
    with_it, without = Explained(depth), in_process("s390", depth)
    plain = Keyboard(without, depth)
    for name in ("create_config", "set_params", "unpin", "dump_cpu_active"):
        scene = SCENES[name](Host(plain))
        for violation in scene.violations:
            scene.attempt(violation)
        plain.ok("kill")
    for request, answer in plain.transcript:
        assert "explain" not in answer
        said = dict(with_it.answer(request))
        said.pop("explain", None)
        assert said == answer
