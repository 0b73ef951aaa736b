"""Whatever a host asks: a call that fails changes what its row says and nothing else.

A host here types blocks for every row of the call table, with operands that mean something, right and wrong;
it mends its tables, and lets its guests run. What is compared after a refusal is everything that the machine
has; after every act the page table of states has to agree with what the entities say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Diag, Program, Read, Touch, Uvc
from protocol.arch.s390.image import PCF_ALLOW_DUMP, Component, Digests, build, host_key
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.entities import Config, PageState, SecureCpu
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import HEADER
from protocol.effects import Fault, run
from protocol.ledger import Ledger
from protocol.memory.store import PAGE, PAGE_SHIFT

MIB = 1 << 20
MEMORY = 8 * MIB
BLOCK = 0x3000
TOP, TABLE, OTHER_TOP = 0x10_0000, 0x10_4000, 0x10_8000
GUEST_LEN = MIB
GADDRS = [0, 0x1000, 0x8000, 0x10000, 0x20000, 0x21000, 0x22000, GUEST_LEN, 0x20005]
FRAMES = [0x20_0000 + place * PAGE for place in range(24)]
QUERY = 0x0001

# code -> (offset, width, what stands there); handles come from the row.
OPERANDS: dict[int, list[tuple[int, int, str]]] = {
    0x000F: [(0x18, 8, "page"), (0x20, 8, "length")],
    0x0100: [
        (0x20, 8, "area"), (0x28, 8, "area"), (0x36, 2, "small"), (0x38, 8, "mso"), (0x40, 8, "length"),
        (0x48, 8, "page"), (0x50, 8, "asce"),
    ],
    0x0120: [(0x28, 8, "page"), (0x36, 2, "small"), (0x38, 8, "page")],
    0x0200: [(0x20, 8, "gaddr")],
    0x0201: [(0x18, 8, "page")],
    0x0202: [(0x18, 8, "page")],
    0x0300: [(0x20, 8, "header"), (0x28, 4, "header_len")],
    0x0301: [(0x20, 8, "gaddr"), (0x28, 8, "small"), (0x30, 8, "offset")],
    0x0330: [(0x27, 1, "small")],
    0x0341: [(0x18, 8, "page")],
    0x0342: [(0x20, 8, "gaddr")],
    0x0401: [(0x20, 8, "page"), (0x28, 8, "gaddr")],
    0x0402: [(0x20, 8, "page")],
    0x0403: [(0x20, 8, "page")],
}  # fmt: skip


class DictStore:
    """RAM that knows which pages were ever written."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pages: dict[int, bytearray] = {}

    def read(self, offset: int, length: int) -> bytes:
        page = self.pages.get(offset >> PAGE_SHIFT)
        at = offset & (PAGE - 1)
        return bytes(page[at : at + length]) if page else bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        at = offset & (PAGE - 1)
        self.pages.setdefault(offset >> PAGE_SHIFT, bytearray(PAGE))[at : at + len(data)] = data

    def clear(self, offset: int, length: int) -> None:
        for page in range(offset >> PAGE_SHIFT, (offset + length) >> PAGE_SHIFT):
            self.pages.pop(page, None)


def canonical(value: Any) -> Any:
    """A value as something that can be compared: everything in it, entities by what they are called."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Enum | int | str | bytes | None):
        return value
    if isinstance(value, Digests):
        return (value.pages, value.pld, value.ald, value.tld)
    if is_dataclass(value):
        entity = isinstance(value, Config | SecureCpu)
        return tuple(
            (
                field.name,
                value.config.handle
                if entity and field.name == "config"
                else canonical(getattr(value, field.name)),
            )
            for field in fields(value)
        )
    if isinstance(value, dict):
        return tuple(sorted((repr(key), canonical(one)) for key, one in value.items()))
    if isinstance(value, set | frozenset):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, list | tuple | range):
        return tuple(map(canonical, value))
    raise AssertionError(f"{type(value)} is not compared")


def state_of(uv: Machine, ram: DictStore) -> dict[str, Any]:
    """Everything that the machine has but the block's page and its counters."""
    vaulted = np.flatnonzero(uv.storage._vaulted).tolist()
    vault = {frame: uv.storage.vault_read(frame, 0, PAGE) for frame in vaulted}
    return {
        "ram": {
            page: bytes(data) for page, data in ram.pages.items() if any(data) and page != BLOCK >> PAGE_SHIFT
        },
        "vault": {frame: data for frame, data in vault.items() if any(data)},
        "states": (
            uv.state.tobytes(),
            uv.owner.tobytes(),
            uv.guest_page.tobytes(),
            uv.storage.homes(np.arange(uv.storage.frames)).tobytes(),
        ),
        "uv": (uv.ready, uv.base, uv.tod, uv._serial, dict(uv.handles._made), len(uv.locks)),
        "configs": canonical(uv.configs),
        "cpus": canonical(uv.secure_cpus),
        "serials": {serial: config.handle for serial, config in uv.by_serial.items()},
        "host": canonical(uv.cpus),
    }


def sound(uv: Machine, ram: DictStore) -> None:
    """The page table agrees with what the entities say, and no byte lies where it must not."""
    taken = {PageState.DONATED: set(), PageState.SECURE: set()}
    for config in uv.configs.values():
        donated = {*map(int, config.base), *map(int, config.variable)}
        donated |= {frame for cpu in config.cpus for frame in map(int, cpu.storage)}
        assert not donated & taken[PageState.DONATED], "donated twice"
        taken[PageState.DONATED] |= donated
        for page in np.flatnonzero(config.resident).tolist():
            frame = int(config.resident[page]) - 1
            assert uv.owner[frame] == config.serial
            assert uv.guest_page[frame] == page
            assert uv.state[frame] in (PageState.SECURE, PageState.SHARED, PageState.PINNED)
        open_to_host = {
            frame
            for frame in np.flatnonzero(uv.owner == config.serial).tolist()
            if uv.state[frame] in (PageState.SHARED, PageState.PINNED)
        }
        assert set(config.shared) == open_to_host
        assert all(config.resident[uv.guest_page[frame]] == frame + 1 for frame in open_to_host)
    assert set(np.flatnonzero(uv.state == PageState.DONATED).tolist()) == taken[PageState.DONATED]
    assert {cpu.handle for config in uv.configs.values() for cpu in config.cpus} == set(uv.secure_cpus)
    assert not uv.owner[(uv.state == PageState.NORMAL) | (uv.state == PageState.DONATED)].any()
    for frame in np.flatnonzero(uv.state < PageState.SECURE).tolist():
        assert uv.storage.vault_is_clear(frame), "a page of the host has bytes in the vault"
    for frame in np.flatnonzero(uv.state == PageState.SECURE).tolist():
        home = int(uv.storage.homes(np.array([frame]))[0]) >> PAGE_SHIFT
        assert not any(ram.pages.get(home, b"")), "bytes of a secure page are in RAM"


class Typist:
    """A host that types anything; every choice comes from `random`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.ram = DictStore(MEMORY)
        self.cpu = Cpu(0)
        self.uv = Machine(PROFILES["small"], MEMORY, [self.cpu], CALLS, Ledger(), seed=3, ram=self.ram)
        self.uv.ready = True  # an Init wants more than 2 GiB, and donates what nobody looks at
        self.image = build(
            [Component(0x10000, b"kernel " * 300, 1)],
            seed=3,
            digest=b"t",
            slots=[host_key(3, "host")],
            pcf=PCF_ALLOW_DUMP,
        )
        self.uv.write(0x4000, self.image.header)
        for origin in (TOP, OTHER_TOP):
            self.uv.write(origin, (0x20).to_bytes(8, "big") * 2048)
            self.uv.write(origin, TABLE.to_bytes(8, "big"))
        self.uv.write(TABLE, (0x400).to_bytes(8, "big") * 256)

    def value(self, what: str) -> int:
        pick = self.random.choice
        if what == "page":
            return pick([*FRAMES, pick(FRAMES) + 8, 0, 0x1000, MEMORY, 1 << 44, 0x4000, 0x30_0000])
        if what == "area":
            return pick(
                [0x30_0000, 0x34_0000, 0x38_0000, 0x3C_0000, pick(FRAMES), 0x1000, MEMORY - PAGE, 1 << 60]
            )
        choices: dict[str, list[int]] = {
            "gaddr": GADDRS,
            "asce": [TOP | 0x103, OTHER_TOP | 0x103, TOP | 3, TOP | 0x123],
            "length": [GUEST_LEN, GUEST_LEN, 2 * MIB, 0, 1 << 40],
            "mso": [0, 0, 0, 1 << 50],
            "small": [0, 1, 2, 3, 5, 7, 8, 0xFF],
            "offset": [0, 0x1000, 5],
            "header": [0x4000, 0x4000, 0x4008, 1 << 44],
            "header_len": [len(self.image.header), len(self.image.header), 0, 16, 0x3000],
        }
        return pick(choices[what])

    def handle(self, kind: str) -> int:
        known = [*(self.uv.configs if kind == "config" else self.uv.secure_cpus)]
        return (
            self.random.choice(known) if known and self.random.random() < 0.9 else self.random.choice([0, 7])
        )

    def call(self) -> None:
        """One block, right or wrong; a refusal must leave everything as it was."""
        row = self.random.choice([row for row in CALLS.values() if row.for_host()])
        block = bytearray(row.length)
        HEADER.pack_into(block, 0, row.length - (self.random.random() < 0.05), row.code, 0, 0)
        for at, width, what in OPERANDS.get(row.code, []):
            block[at : at + width] = self.value(what).to_bytes(8, "big")[-width:]
        if row.handle:
            block[row.handle_at : row.handle_at + 8] = self.handle(row.handle).to_bytes(8, "big")
        if row.code == 0x0100 and self.random.random() < 0.5:
            self.good_creation(block)
        if row.code == 0x0301 and self.random.random() < 0.5:
            self.good_page(block)
        self.issue(bytes(block), row.code)

    def good_creation(self, block: bytearray) -> None:
        for at, value in ((0x20, 0x30_0000), (0x28, 0x38_0000), (0x38, 0), (0x40, GUEST_LEN), (0x48, 0x5000)):
            block[at : at + 8] = value.to_bytes(8, "big")

    def good_page(self, block: bytearray) -> None:
        page = self.image.pages[0]
        self.map(page.gaddr, FRAMES[0])
        self.uv.write(FRAMES[0], page.data)
        for at, value in ((0x20, page.gaddr), (0x28, page.tweak[0]), (0x30, page.tweak[1])):
            block[at : at + 8] = value.to_bytes(8, "big")

    def issue(self, block: bytes, code: int) -> None:
        self.uv.write(BLOCK, block)
        before = state_of(self.uv, self.ram)
        cc = run(self.uv.call(self.cpu, BLOCK))
        after = self.uv.read(BLOCK, len(block))
        assert isinstance(after, bytes)
        if isinstance(cc, Fault):
            assert after == block
            assert state_of(self.uv, self.ram) == before
        elif cc == 1:
            assert after[:4] == block[:4]
            if CALLS[code].on_error == "nothing":
                assert after[8:] == block[8:]
            assert state_of(self.uv, self.ram) == before, f"a refused {CALLS[code].name} changed something"

    def map(self, gaddr: int, frame: int, protect: int = 0) -> None:
        if gaddr < GUEST_LEN:
            self.uv.write(TABLE + 8 * (gaddr >> PAGE_SHIFT), (frame | protect).to_bytes(8, "big"))

    def edit(self) -> None:
        gaddr = self.random.choice(GADDRS) & ~(PAGE - 1)
        self.map(gaddr, self.random.choice(FRAMES), self.random.choice([0, 0, 0, 0x200, 0x400]))

    def scribble(self) -> None:
        self.uv.write(self.random.choice(FRAMES) + 16, b"scribbled")

    def run_guest(self, secure: SecureCpu | None = None, verb: int = 0, gaddr: int = 0) -> None:
        """A started guest writes, shares or unshares, and reads."""
        secure = secure or self.random.choice([*self.uv.secure_cpus.values(), None])
        if secure is None:
            return
        at = FRAMES[-1]
        for offset, value, width in ((0x10, secure.handle, 8), (0x18, secure.config.handle, 8), (0x68, 2, 1)):
            self.uv.write(at + offset, value.to_bytes(width, "big"))
        gaddr = gaddr or self.random.choice(GADDRS)
        block = bytearray(0x30)
        HEADER.pack_into(block, 0, 0x30, verb or self.random.choice([0x1000, 0x1001]), 0, 0)
        block[0x20:0x28] = gaddr.to_bytes(8, "big")
        program = Program()
        program.steps.extend([Touch(0x8000, True, bytes(block)), Uvc(0x8000), Read(gaddr, 8), Diag(0x500)])
        self.cpu.cr[1] = secure.config.asce
        for _ in range(4):
            run(self.uv.enter(self.cpu, at, program, False, 1))

    def boot(self) -> None:
        """Bring a guest as far as it goes: most of what is interesting needs one that runs."""
        areas = {0x20: 0x30_0000, 0x28: 0x38_0000, 0x40: GUEST_LEN, 0x48: 0x5000, 0x50: TOP | 0x103}
        self.fixed(0x0100, areas)
        if not self.uv.configs:
            return
        config = next(reversed(self.uv.configs))
        self.fixed(0x0120, {0x20: config, 0x28: FRAMES[20], 0x38: FRAMES[-1]})
        self.fixed(0x0300, {0x18: config, 0x20: 0x4000, 0x28: len(self.image.header) << 32})
        page = self.image.pages[0]
        for place, gaddr in enumerate((0, 0x1000, 0x8000)):
            self.map(gaddr, FRAMES[1 + place])
            self.fixed(0x0200, {0x18: config, 0x20: gaddr})
        self.map(page.gaddr, FRAMES[0])
        self.uv.write(FRAMES[0], page.data)
        self.fixed(0x0301, {0x18: config, 0x20: page.gaddr, 0x28: page.tweak[0], 0x30: page.tweak[1]})
        self.fixed(0x0302, {0x18: config})
        for secure in list(self.uv.configs[config].cpus):
            self.fixed(0x0330, {0x18: secure.handle, 0x20: 5})

    def share_and_pin(self) -> None:
        """A page is imported and shared; the host pins it, and perhaps takes the pin away again."""
        if not self.uv.secure_cpus:
            return
        secure = self.random.choice([*self.uv.secure_cpus.values()])
        self.map(0x20000, FRAMES[8])
        self.fixed(0x0200, {0x18: secure.config.handle, 0x20: 0x20000})
        self.run_guest(secure, 0x1000, 0x20000)
        self.fixed(0x0341, {0x18: FRAMES[8]})
        if self.random.random() < 0.5:
            self.fixed(0x0342, {0x18: secure.config.handle, 0x20: 0x20000})

    def lifecycle(self) -> None:
        """A reset of a guest, or a dump, as far as it comes."""
        if not self.uv.secure_cpus:
            return
        secure = self.random.choice([*self.uv.secure_cpus.values()])
        config = secure.config.handle
        reset = [
            *((0x0330, {0x18: cpu.handle, 0x20: 2}) for cpu in secure.config.cpus),
            (0x0340, {0x18: config}),
            (0x0320, {0x18: config}),
            *((0x0321, {0x18: cpu.handle}) for cpu in secure.config.cpus),
            (0x0330, {0x18: secure.handle, 0x20: 5}),
        ]
        dump = [
            (0x0400, {0x18: config}),
            (0x0402, {0x18: secure.handle, 0x20: FRAMES[21]}),
            (0x0401, {0x18: config, 0x20: FRAMES[21], 0x28: 0}),
            (0x0403, {0x18: config, 0x20: FRAMES[21]}),
        ]
        chain = self.random.choice([reset, dump])
        for code, values in chain[: self.random.randint(1, len(chain))]:
            self.fixed(code, values)

    def fixed(self, code: int, values: dict[int, int]) -> None:
        row = CALLS[code]
        block = bytearray(row.length)
        for at, value in values.items():
            block[at : at + 8] = value.to_bytes(8, "big")
        HEADER.pack_into(block, 0, row.length, code, 0, 0)
        self.issue(bytes(block), code)

    def type(self, steps: int) -> None:
        acts: list[Callable[[], None]] = [
            *[self.call] * 4,
            *[self.edit] * 2,
            self.scribble,
            *[self.run_guest] * 2,
            self.share_and_pin,
            self.lifecycle,
        ]
        self.boot()
        sound(self.uv, self.ram)
        for _ in range(steps):
            self.random.choice([*acts, self.boot] if self.random.random() < 0.1 else acts)()
            sound(self.uv, self.ram)


@settings(max_examples=4)
@given(st.integers(0, 1 << 32))
def test_a_call_that_fails_changes_what_its_row_says_and_nothing_else(seed: int) -> None:
    Typist(Random(seed)).type(15)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.integers(0, 1 << 32))
def test_many_hosts_type_anything_and_the_page_table_stays_sound(seed: int) -> None:
    Typist(Random(seed)).type(80)


@pytest.mark.slow
def test_the_typist_gets_far_enough_to_be_worth_something() -> None:
    """Every row but Init is executed by one of a few scripts, and refused by one."""
    seen: set[tuple[int, int]] = set()

    class Watching(Typist):
        def issue(self, block: bytes, code: int) -> None:
            super().issue(block, code)
            after = self.uv.read(BLOCK, 8)
            assert isinstance(after, bytes)
            seen.add((code, int(after[4:6] == b"\0\1")))

    wanted = {(row.code, done) for row in CALLS.values() if row.for_host() for done in (0, 1)} - {(0x000F, 1)}
    for seed in range(60):
        Watching(Random(seed)).type(60)
    assert {(CALLS[code].name, done) for code, done in wanted - seen} == set()
