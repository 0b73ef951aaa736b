"""Hosts that name any address: outside of memory, at its edges, in the middle of what others have.

The scripts of `test_sev_random_scripts`, with addresses drawn from a list of places where ranges begin, end
and overlap: in buffers of commands, mailbox registers, instructions, control blocks, nested tables and the
steps of guests. Whatever is named, the answer is the same at every depth, but for what ciphertext happens to
say (`sev_differences`, "ciphertext"): the first tests show what comes of it. The random ones run on machines
whose ciphertext is the same everywhere, and then nothing differs.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest
from driver import Json, number
from sev_field import C_BIT, LAYOUT_OF, LAYOUTS, MIB, PAGE, RMP_AT, RMP_LEN, Sev, Tables, Vcpu
from test_sev_random_scripts import BLOCK, BUFFER, GPAS, SAVE, SMALL, STATE, TABLES, VMCBS, Script, compare

from protocol.arch.sev.crypto.keys import MemoryKey

SIZE = 512 * MIB
TMR = 0x800000
EDGES = (
    0,
    0xA0000,  # the end of low memory, and what is SMM's
    0xC0000,
    0x100000,
    RMP_AT,
    RMP_AT + 0x4000,
    RMP_AT + RMP_LEN,
    TMR,
    TMR + MIB,
    TMR + 2 * MIB,
    BLOCK,
    BLOCK + 2 * MIB,
    SIZE,
    SIZE + 64 * MIB,  # memory of the level below only
    2 * SIZE,
    4 * SIZE,
    (RMP_LEN - 0x4000) // 16 * PAGE,  # the end of what the RMP covers
    1 << 32,
    1 << 48,
    C_BIT,
    C_BIT | BLOCK,
    C_BIT | SIZE,
    1 << 52,
    1 << 63,
    1 << 64,
)
OURS = (BUFFER, STATE, SAVE, *VMCBS, *(TABLES + n * PAGE for n in range(5)), *SMALL)
OFFSETS = (0, 0, 0, 0, -PAGE, -PAGE, PAGE, -1, 1, 8, -8, 0xFF8, -16)
ADDRESSES = {"pa", "src", "dst", "req", "resp", "status", "mdata", "gctx"}
OPTIONAL = {"ma", "id_block", "id_auth", "dh", "session"}  # of those that are zero otherwise
LENGTHS = (0, 1, 16, PAGE - 16, PAGE, PAGE + 16, 16 * PAGE, 2 * MIB, SIZE, 0xFFFFFFF0, 0xFFFFFFFF)
INTERRUPT, INVALID = 0x60, (1 << 64) - 1
RARELY, OFTEN = 0.06, 0.3


class Wild(Script):
    """A script with one address in some replaced by any."""

    def anywhere(self) -> int:
        r = self.random
        base = r.choice(OURS) if r.random() < 0.3 else r.choice(EDGES)
        return (base + r.choice(OFFSETS)) % (1 << 64)

    def page(self) -> int:
        return self.anywhere() & -PAGE if self.random.random() < RARELY else super().page()

    def ask(self, op: str, **fields: Any) -> None:
        """Requests of the host's own: where they write, read, enter, and where the mailbox looks."""
        named = {"write": ("addr",), "read": ("addr",), "insn": ("rax", "rcx"), "enter": ("vcpu",)}.get(
            op, ()
        )
        for name in named:
            if name in fields and self.random.random() < RARELY / 2:
                fields[name] = self.anywhere()
        if op == "call" and self.random.random() < RARELY:
            at = self.anywhere()
            fields |= {"lo": at & 0xFFFFFFFF, "hi": at >> 32}
        super().ask(op, **fields)

    def command(self, name: str, **fields: Any) -> None:
        for field in LAYOUTS.get(LAYOUT_OF.get(name, name), ("", ""))[1].split():
            if field in ADDRESSES | OPTIONAL and self.random.random() < RARELY:
                fields[field] = self.anywhere()
            if field == "len" and self.random.random() < RARELY:
                fields[field] = self.random.choice(LENGTHS)
        super().command(name, **fields)

    def control(self, n: int, asid: int, mode: int, vmsa: int) -> None:
        r = self.random
        super().control(n, asid, mode, self.anywhere() if r.random() < RARELY else vmsa)
        if r.random() < RARELY:
            self.write(VMCBS[n] + 0xB0, struct.pack("<Q", self.anywhere()))

    def leaf(self) -> None:
        """Any entry of any table points anywhere."""
        r = self.random
        if r.random() > OFTEN:
            super().leaf()
            return
        gpa = r.choice(GPAS)
        level = r.choice((0, 1, 2, 3, 3, 3, 4))
        index = gpa >> (39, 30, 21, 12, 12)[level] & 0x1FF
        entry = self.anywhere() & -PAGE | r.choice((7, 7, 0x87, 5, 3))
        self.write(TABLES + level * PAGE + 8 * index, struct.pack("<Q", entry))

    def steps(self) -> list[Json]:
        made = super().steps()
        for step in made:
            for name in ("read", "touch", "rax"):
                if name in step and self.random.random() < RARELY:
                    step[name] = hex(self.anywhere())
            if "len" in step and self.random.random() < RARELY:
                step["len"] = self.random.choice((0, 1, PAGE, 2 * PAGE))
        return made


def refused(entry: int, write: bool) -> int:
    """The error code of a nested fault at this last entry of a walk, if it is random: it names no memory."""
    access = 6 if write else 4
    if not entry & 1:
        return access
    return access | 1 if not entry & 4 or (write and not entry & 2) else access


def test_a_nested_table_in_a_page_of_a_guest_leads_where_its_ciphertext_points(legacy: Sev) -> None:
    handle = legacy.legacy_guest(asid=8)
    page = legacy.alloc()
    legacy.did("LAUNCH_UPDATE_DATA", handle=handle, pa=page, len=PAGE)
    tables = Tables(legacy)
    walk = [tables.root, *legacy.pages(2), page]
    for table, below in pairwise(walk):
        legacy.write(table, struct.pack("<Q", below | 7))
    vcpu = Vcpu(legacy, tables, asid=1, mode=1)
    for n in range(16):
        entry = int.from_bytes(legacy.read(page + 8 * n, 8), "little")
        for write in (False, True):
            left = vcpu.do({"touch": n * PAGE, "write": write}, replace=True)
            assert number(left["exitcode"]) == 0x400
            assert number(left["exitinfo1"]) == refused(entry, write), f"{entry:#x}"


def test_a_vmsa_that_is_encrypted_twice_has_the_features_that_its_ciphertext_says(legacy: Sev) -> None:
    handle = legacy.legacy_guest(policy=4, asid=1)
    wanted = {}
    for vmsa in legacy.pages(6):
        legacy.did("LAUNCH_UPDATE_VMSA", handle=handle, pa=vmsa, len=PAGE)
        snp = legacy.read(vmsa + 0x3B0, 1)[0] & 1
        legacy.did("LAUNCH_UPDATE_VMSA", handle=handle, pa=vmsa, len=PAGE)
        wanted[vmsa] = INVALID if snp else INTERRUPT
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=legacy.alloc(), len=48)
    legacy.did("LAUNCH_FINISH", handle=handle)
    for vmsa, code in wanted.items():
        vcpu = Vcpu(legacy, Tables(legacy), asid=1, mode=7, vmsa=vmsa)
        assert number(vcpu.enter()["exitcode"]) == code


@pytest.fixture
def same_ciphertext(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory encryption that depends on neither key nor place. It still is not the plaintext."""

    def veil(key: MemoryKey, address: int, data: bytes) -> bytes:
        return bytes(byte ^ 0x55 for byte in data)

    monkeypatch.setattr(MemoryKey, "encrypt", veil)
    monkeypatch.setattr(MemoryKey, "decrypt", veil)


@pytest.mark.usefixtures("same_ciphertext")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("snp", [True, False], ids=["snp", "legacy"])
def test_a_host_that_names_any_address_cannot_tell_how_deep_it_is(seed: int, snp: bool) -> None:
    compare(seed, snp, 60, Wild)


@pytest.mark.slow
@pytest.mark.usefixtures("same_ciphertext")
@pytest.mark.parametrize("seed", range(100, 112))
@pytest.mark.parametrize("snp", [True, False], ids=["snp", "legacy"])
def test_many_hosts_that_name_any_address_cannot_tell_how_deep_they_are(seed: int, snp: bool) -> None:
    compare(seed, snp, 120, Wild)
