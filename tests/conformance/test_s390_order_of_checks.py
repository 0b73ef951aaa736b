"""The order of checks, call by call: two things wrong at once, and the answer names the first.

The order is that of the program's call table, so a row that changes changes the test. Which codes are known
and which are guesses stands in the rows, too; what is held here is that the table says what the Ultravisor
does.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from s390_blocks import (
    CALLS,
    INV_CHANDLE,
    INV_GHANDLE,
    INV_LEN,
    PRIVILEGED,
    SPECIFICATION,
)
from s390_field import Host
from s390_guest import Image, SecureGuest
from s390_violations import SCENES, Code, Scene, Violation

from protocol.arch.s390.calls import CALLS as TABLE
from protocol.calls import CallSpec

BY_CODE = {call.code: call for call in CALLS.values()}
HOST_ROWS = [spec for spec in TABLE.values() if spec.for_host()]

# Checks that no scene here provokes, and why.
ELSEWHERE: dict[tuple[str, Code], str] = {
    ("query", (0x0005, 0)): "its lengths: test_s390_query_init",
    ("query", (0x0100, 0)): "its lengths: test_s390_query_init",
    ("verify", (0x0102, 0x001D)): "an image loaded wrongly: below",
    ("verify", (0x0102, 0x001A)): "an image loaded wrongly: below",
    ("verify", (0x0102, 0x001B)): "an image loaded wrongly: below",
    ("verify", (0x0102, 0x001C)): "an image loaded wrongly: below",
}

every_scene = pytest.mark.parametrize("name", SCENES)


@pytest.fixture(params=[0, 1, pytest.param(2, marks=pytest.mark.slow)], ids=lambda depth: f"depth{depth}")
def depth(request: pytest.FixtureRequest) -> int:
    """One question for every row of a table: the deepest host is asked with the slow half."""
    chosen: int = request.param
    return chosen


def row_of(scene: Scene) -> CallSpec:
    return TABLE[CALLS[scene.call].code]


def place(row: CallSpec, violation: Violation) -> int:
    """Where in its row a check stands."""
    for at, check in enumerate(row.checks):
        if check.code == violation.rc and violation.rrc in (None, check.reason):
            return at
    raise AssertionError(f"{row.name} has no check {violation.rc:#06x} {violation.rrc}")


def first(scene: Scene, *wrong: Violation) -> Violation:
    """Of all that is wrong, what the row looks at first."""
    row = row_of(scene)
    return min((*scene.standing, *wrong), key=lambda violation: place(row, violation))


@every_scene
def test_one_thing_wrong_is_named(raw: Host, name: str) -> None:
    scene = SCENES[name](raw)
    if scene.standing:
        scene.attempt().refused(*first(scene).code)
    for violation in scene.violations:
        scene.attempt(violation).refused(*first(scene, violation).code)
    if scene.finish is not None:
        scene.finish()
        scene.attempt().done()


@every_scene
def test_of_two_things_wrong_the_first_is_named(raw: Host, name: str) -> None:
    scene = SCENES[name](raw)
    pairs = [pair for pair in combinations(scene.violations, 2) if pair[0].goes_with(pair[1])]
    for pair in pairs:
        for wrong in (pair, pair[::-1]):
            scene.attempt(*wrong).refused(*first(scene, *wrong).code)
    if scene.finish is not None:
        scene.finish()
        scene.attempt().done()


@every_scene
def test_what_all_calls_check_comes_before_what_one_checks(raw: Host, name: str) -> None:
    """3.4: problem state, immediate operands, length, handle; each together with each check of the call."""
    scene = SCENES[name](raw)
    host, call = scene.host, CALLS[scene.call]
    for wrong in ((), *((violation,) for violation in scene.violations)):
        if not (wrong or scene.standing):
            continue
        block = bytearray(scene.block(*wrong))
        with scene.set_up(*wrong):
            block[0:2] = (call.length + 8).to_bytes(2, "big")
            host.uvc(bytes(block), scene.cpu).refused(INV_LEN)
            block[0:2] = call.length.to_bytes(2, "big")
            assert host.uvc_fault(bytes(block), scene.cpu, m3=1).code == SPECIFICATION
            host.cpu(scene.cpu, problem_state=True)
            assert host.uvc_fault(bytes(block), scene.cpu).code == PRIVILEGED
            host.cpu(scene.cpu, problem_state=False)
            if call.handle:
                block[call.handle_at : call.handle_at + 8] = b"\x77" * 8
                unknown = INV_GHANDLE if call.handle == "config" else INV_CHANDLE
                host.uvc(bytes(block), scene.cpu).refused(unknown)
    if scene.finish is not None:
        scene.finish()
        scene.attempt().done()


# -- verify: the image is what is wrong ----------------------------------------

LOADED_WRONG = {"count": 0x001D, "address": 0x001A, "content": 0x001B, "tweak": 0x001C}
ORDER = ["count", "address", "content", "tweak"]


def load_wrong(host: Host, *what: str) -> SecureGuest:
    """A guest whose second page, or number of pages, is not what its header says."""
    image = Image.build(host)
    gaddr, tweak, content = image.pages[1]
    if "address" in what:
        gaddr += 0x20000
    if "tweak" in what:
        tweak = (tweak[0] + 1, tweak[1])
    if "content" in what:
        content = content[:-1] + bytes([content[-1] ^ 1])
    pages = [image.pages[0], (gaddr, tweak, content)]
    if "count" in what:
        pages.append((0x70000, (1, 0x2000), content))
    guest = SecureGuest.create(host)
    guest.set_params(image.header).done()
    guest.unpack_all(Image(b"", pages))
    return guest


@pytest.mark.parametrize("what", [*combinations(ORDER, 1), *combinations(ORDER, 2)], ids="+".join)
def test_verify_names_the_first_thing_wrong_with_an_image(host: Host, what: tuple[str, ...]) -> None:
    reasons = [check.reason for check in TABLE[0x0302].checks if check.code == 0x0102]
    want = min((LOADED_WRONG[one] for one in what), key=reasons.index)
    load_wrong(host, *what).verify().refused(0x0102, want)


# -- the table and the scenes ----------------------------------------


def test_every_check_of_every_row_is_provoked(s390: object, depth: int) -> None:
    """A new check in the table needs a scene, or a reason to be elsewhere."""
    if depth:
        pytest.skip("the scenes are the same at every depth")
    provoked: set[tuple[str, int]] = set()
    for make in SCENES.values():
        scene = make(s390())  # type: ignore[operator]
        row = row_of(scene)
        provoked |= {(row.name, place(row, wrong)) for wrong in (*scene.violations, *scene.standing)}
    missing = [
        (row.name, f"{check.code:#06x}", check.text)
        for row in HOST_ROWS
        for at, check in enumerate(row.checks)
        if (row.name, at) not in provoked and (row.name, (check.code, check.reason)) not in ELSEWHERE
    ]
    assert missing == []


def test_the_table_is_the_sheets_table() -> None:
    """Section 2: code, length, bit, kind and place of the handle, of every call of a host.

    The one table was written from the other's source, apart from it: a slip in one of them shows.
    """
    program = {
        (row.code, row.length, row.bit, row.handle, row.handle_at if row.handle else 0, row.states == "ready")
        for row in HOST_ROWS
    }
    sheet = {
        (call.code, call.length, call.bit, call.handle, call.handle_at if call.handle else 0, call.needs_init)
        for call in CALLS.values()
    }
    assert program == sheet
