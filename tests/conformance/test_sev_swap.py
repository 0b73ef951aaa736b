"""Pages of SNP guests on their way: swapped out and in, moved, debugged; metadata pages."""

from __future__ import annotations

import struct

import pytest
from driver import number
from sev_field import C_BIT, MIB, PAGE, POLICY, RMP_AT, Sev, Sevs, SnpVm

DATA, METADATA, VMSA, ROOT = 0, 1 << 1, 2 << 1, 0x10


class Swapper:
    """A running guest with a metadata page, and pages of the firmware's."""

    def __init__(self, host: Sev) -> None:
        self.host = host
        self.vm = SnpVm(host, private=4)
        self.mdata, self.out = host.pages(2)
        host.firmware(self.mdata, self.out)
        host.did("SNP_PAGE_MD_INIT", gctx=self.vm.gctx, pa=self.mdata)

    def pre_swap(self, page: int, gpa: int) -> None:
        """A Guest-Valid page goes into the firmware's hands as it is."""
        assert self.host.rmpupdate(page, gpa, 1, 0, 1, self.vm.asid) == 0
        assert self.host.entry(page)[0] >> 62 & 1 == 1

    def swap(self, name: str, src: int, dst: int, flags: int = DATA, slot: int = 0, **more: int) -> int:
        mdata = 0 if flags & ROOT else self.mdata + 64 * slot
        return self.host.cmd(name, gctx=self.vm.gctx, src=src, dst=dst, mdata=mdata, flags=flags, **more)

    def read(self, gpa: int, length: int = 8) -> bytes:
        left = self.vm.vcpu.do({"read": C_BIT | gpa, "len": length}, replace=True)
        assert left["steps"], left
        return bytes.fromhex(left["steps"][0]["hex"])


@pytest.fixture
def swapper(snp: Sev) -> Swapper:
    made = Swapper(snp)
    made.vm.vcpu.do({"touch": C_BIT | PAGE, "write": True, "value": b"swap me!".hex()})
    return made


def test_metadata_pages_belong_to_one_guest(swapper: Swapper) -> None:
    low, high = swapper.host.entry(swapper.mdata)
    assert low == 5 | (1 << 36 | swapper.vm.gctx // PAGE) << 12
    assert high == 0
    assert swapper.host.read(swapper.mdata, PAGE) == bytes(PAGE)
    swapper.host.take_back(swapper.mdata)


def test_a_page_goes_out_and_comes_back_where_it_was(swapper: Swapper) -> None:
    host, page = swapper.host, swapper.vm.pages[1]
    swapper.pre_swap(page, PAGE)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", page, swapper.out, sw_data=0x77) == 0
    assert host.entry(page)[0] == 5 | PAGE | 1 << 51  # Pre-Guest
    entry = host.read(swapper.mdata, 64)
    assert struct.unpack_from("<Q", entry)[0] == 0x77
    assert struct.unpack_from("<Q", entry, 0x20)[0] == 1 | 2 | PAGE
    assert host.read(swapper.out, 8) != b"swap me!"
    host.did("SNP_PAGE_RECLAIM", pa=page)
    host.shared(page)

    other = host.alloc()
    host.give(other, 0x9000, swapper.vm.asid, immutable=1)
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, other, slot=1) == 0x1B
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, other, flags=VMSA) == 0x1B
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, other) == 0
    assert host.entry(other)[0] == 1 | PAGE | 1 << 51 | 1 << 62
    assert host.read(swapper.mdata, 64) == bytes(64)
    swapper.vm.tables.map(PAGE, other)
    assert swapper.read(PAGE) == b"swap me!"
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, other) == 0x1B  # the entry is used up


def test_a_page_that_was_changed_outside_does_not_come_back(swapper: Swapper) -> None:
    host, page = swapper.host, swapper.vm.pages[1]
    swapper.pre_swap(page, PAGE)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", page, swapper.out) == 0
    host.take_back(swapper.out)
    host.write(swapper.out, b"forged")
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, page) == 0x0B


def test_a_page_comes_back_from_memory_alone(swapper: Swapper) -> None:
    """Its metadata is good; where it was to come from, or go to, there is none."""
    host, page = swapper.host, swapper.vm.pages[1]
    swapper.pre_swap(page, PAGE)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", page, swapper.out) == 0
    assert swapper.swap("SNP_PAGE_SWAP_IN", 1 << 40, page) == 0x1A
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, 1 << 40) == 0x1A
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, page) == 0
    assert swapper.read(PAGE) == b"swap me!"
    assert host.entry(page)[0] >> 62 & 1 == 1


NOWHERE = 1 << 40


@pytest.mark.parametrize("flags", [DATA, VMSA, METADATA | ROOT, 1])
def test_a_metadata_entry_is_judged_before_the_places_that_it_is_for(swapper: Swapper, flags: int) -> None:
    """What is kept in the context is empty as well; without a source, without a target, without both."""
    page = swapper.vm.pages[1]
    swapper.pre_swap(page, PAGE)
    for src, dst in ((NOWHERE, page), (swapper.out, NOWHERE), (NOWHERE, NOWHERE), (swapper.out, page)):
        assert swapper.swap("SNP_PAGE_SWAP_IN", src, dst, flags=flags) == 0x1B, (src, dst)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", page, swapper.out) == 0
    wanted = 0x1B if flags else 0x1A
    assert swapper.swap("SNP_PAGE_SWAP_IN", NOWHERE, page, flags=flags) == wanted, "of another kind"


def test_a_vmsa_is_swapped_as_one(swapper: Swapper) -> None:
    host, vm = swapper.host, swapper.vm
    swapper.pre_swap(vm.vmsa, 0xFFFFFFFFF000)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", vm.vmsa, swapper.out) == 0x1A
    assert swapper.swap("SNP_PAGE_SWAP_OUT", vm.vmsa, swapper.out, flags=VMSA) == 0
    assert vm.vcpu.enter()["exitcode"] == "0xffffffffffffffff"
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, vm.vmsa, flags=VMSA) == 0
    assert host.entry(vm.vmsa)[0] >> 61 == 3
    assert vm.vcpu.enter()["exitcode"] == "0x60"


def test_metadata_itself_goes_into_the_context(swapper: Swapper) -> None:
    host, page = swapper.host, swapper.vm.pages[1]
    swapper.pre_swap(page, PAGE)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", page, swapper.out) == 0
    kept = host.alloc()
    host.firmware(kept)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", swapper.mdata, kept, flags=METADATA | ROOT) == 0
    assert host.entry(swapper.mdata) == (5, 0)
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, page) == 0x1A
    assert swapper.swap("SNP_PAGE_SWAP_IN", kept, swapper.mdata, flags=METADATA | ROOT) == 0
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, page) == 0
    assert swapper.read(PAGE) == b"swap me!"


def test_a_large_page_goes_out_and_comes_back(swapper: Swapper) -> None:
    """One entry speaks for 2 MiB all along, and one piece of metadata for all of it."""
    host, vm = swapper.host, swapper.vm
    block, out, back = (host.alloc(2 * MIB, 2 * MIB) for _ in range(3))
    host.give(block, 2 * MIB, vm.asid, size=1)
    vm.tables.map(2 * MIB, block, shift=21)
    at = C_BIT | 2 * MIB + 77 * PAGE
    vm.vcpu.do(
        {"insn": "pvalidate", "rax": 2 * MIB, "ecx": 1, "edx": 1},
        {"touch": at, "write": True, "value": b"two MiB!".hex()},
    )
    assert host.rmpupdate(block, 2 * MIB, 1, 1, 1, vm.asid) == 0
    assert host.rmpupdate(out, size=1, immutable=1) == 0
    assert swapper.swap("SNP_PAGE_SWAP_OUT", block, out, flags=1) == 0
    assert struct.unpack_from("<Q", host.read(swapper.mdata, 64), 0x20)[0] == 1 | 2 | 16 | 2 * MIB
    assert host.entry(block)[0] == 7 | 2 * MIB | 1 << 51  # Pre-Guest
    host.did("SNP_PAGE_RECLAIM", pa=block | 1)
    assert host.rmpupdate(block, assigned=0, size=1) == 0
    host.give(back, 0, vm.asid, size=1, immutable=1)
    assert swapper.swap("SNP_PAGE_SWAP_IN", out, back) == 0x1B, "a large page is no small one"
    assert swapper.swap("SNP_PAGE_SWAP_IN", out, back, flags=1) == 0
    assert host.entry(back)[0] == 3 | 2 * MIB | 1 << 51 | 1 << 62
    vm.tables.map(2 * MIB, back, shift=21)
    assert swapper.read(2 * MIB + 77 * PAGE) == b"two MiB!"
    host.did("SNP_PAGE_RECLAIM", pa=out | 1)
    assert host.rmpupdate(out, assigned=0, size=1) == 0
    host.write(out, b"free")


def test_a_large_page_comes_back_from_where_it_lies_in_one_piece_below(
    swapper: Swapper, sev_depth: int
) -> None:
    """Its metadata is judged before that, and waits for a better place."""
    host, vm = swapper.host, swapper.vm
    block, out = (host.alloc(2 * MIB, 2 * MIB) for _ in range(2))
    host.give(block, 2 * MIB, vm.asid, size=1, immutable=1)
    assert host.rmpupdate(out, size=1, immutable=1) == 0
    assert swapper.swap("SNP_PAGE_SWAP_OUT", block, out, flags=1) == 0
    sealed = host.read(out, 2 * MIB)
    aside = host.alloc(4 * MIB, 2 * MIB) + MIB
    host.write(aside, sealed)
    assert swapper.swap("SNP_PAGE_SWAP_IN", aside, block, flags=1, slot=1) == 0x1B
    status = swapper.swap("SNP_PAGE_SWAP_IN", aside, block, flags=1)
    assert status == (0x15 if sev_depth else 0)  # difference: large swaps
    assert swapper.swap("SNP_PAGE_SWAP_IN", out, block, flags=1) == (0 if sev_depth else 0x1B)


def test_a_large_page_of_a_legacy_guest_is_swapped(legacy: Sev) -> None:
    handle = legacy.launched()
    source, target = (legacy.alloc(2 * MIB, 2 * MIB) for _ in range(2))
    mdata, plain = legacy.pages(2)
    legacy.write(plain, b"far inside".ljust(16, b"."))
    place = source + 300 * PAGE
    legacy.did("DBG_ENCRYPT", handle=handle, src=plain, dst=place, len=16)
    legacy.did("SWAP_OUT", handle=handle, flags=1, src=source, dst=target, mdata=mdata)
    legacy.ok("fill", addr=source, len=2 * MIB)
    fields = {"handle": handle, "src": target, "dst": source, "mdata": mdata}
    assert legacy.cmd("SWAP_IN", **fields) == 0x16
    legacy.did("SWAP_IN", flags=1, **fields)
    legacy.did("DBG_DECRYPT", handle=handle, src=place, dst=plain, len=16)
    assert legacy.read(plain, 10) == b"far inside"


@pytest.mark.parametrize("valid", [True, False])
def test_a_moved_page_keeps_what_it_is(swapper: Swapper, valid: bool) -> None:
    host, vm = swapper.host, swapper.vm
    source, target = vm.pages[1], host.alloc()
    if not valid:
        vm.vcpu.do({"insn": "pvalidate", "rax": PAGE, "edx": 0})
        assert host.rmpupdate(source, PAGE, 1, 0, 1, vm.asid) == 0
    else:
        swapper.pre_swap(source, PAGE)
    host.give(target, 0x7000, vm.asid, immutable=1)
    assert host.cmd("SNP_PAGE_MOVE", gctx=vm.gctx, src=source, dst=target) == 0
    assert host.entry(target)[0] == 1 | PAGE | 1 << 51 | int(valid) << 62
    assert host.entry(source)[0] & (4 | 1 << 62) == 0
    vm.tables.map(PAGE, target)
    if not valid:
        vm.vcpu.do({"insn": "pvalidate", "rax": PAGE, "edx": 1})
    assert swapper.read(PAGE) == b"swap me!"


def test_a_metadata_page_moves_to_a_page_of_the_firmwares(swapper: Swapper) -> None:
    host = swapper.host
    assert host.cmd("SNP_PAGE_MOVE", gctx=swapper.vm.gctx, src=swapper.mdata, dst=swapper.out) == 0
    assert host.entry(swapper.mdata) == (5, 0)
    assert host.entry(swapper.out)[0] >> 48 & 1 == 1
    host.take_back(swapper.mdata)


def test_another_guest_may_not_use_it(swapper: Swapper) -> None:
    host = swapper.host
    other = host.snp_guest(asid=2)
    page = host.alloc()
    host.give(page, 0, 2, immutable=1)
    status = host.cmd("SNP_PAGE_SWAP_OUT", gctx=other, src=page, dst=swapper.out, mdata=swapper.mdata)
    assert status == 0x1C


def test_debugging_is_for_guests_that_allow_it(snp: Sev) -> None:
    vm = SnpVm(snp, policy=POLICY | 1 << 19)
    closed = SnpVm(snp, asid=2)
    plain, other = snp.pages(2)
    snp.firmware(plain)
    vm.vcpu.do({"touch": C_BIT | PAGE, "write": True, "value": b"debugged".hex()})
    snp.did("SNP_DBG_DECRYPT", gctx=vm.gctx, src=vm.pages[1], dst=plain)
    assert snp.read(plain, 8) == b"debugged"
    assert snp.cmd("SNP_DBG_DECRYPT", gctx=closed.gctx, src=closed.pages[1], dst=plain) == 0x07
    assert snp.cmd("SNP_DBG_DECRYPT", gctx=closed.gctx, src=vm.pages[1], dst=plain) == 0x1C
    snp.write(other, b"patched!")
    assert snp.cmd("SNP_DBG_ENCRYPT", gctx=vm.gctx, src=other, dst=vm.pages[1]) == 0x1A
    assert snp.rmpupdate(vm.pages[1], PAGE, 1, 0, 1, vm.asid) == 0
    snp.did("SNP_DBG_ENCRYPT", gctx=vm.gctx, src=other, dst=vm.pages[1])
    snp.did("SNP_PAGE_RECLAIM", pa=vm.pages[1])
    left = vm.vcpu.do({"read": C_BIT | PAGE, "len": 8})
    assert bytes.fromhex(left["steps"][0]["hex"]) == b"patched!"


def test_a_page_that_one_command_stored_to_is_stored_to_by_another(snp: Sev) -> None:
    """One of the two is done by the firmware below, the other one by whoever plays it."""
    vm, page = SnpVm(snp, policy=POLICY | 1 << 19), snp.alloc()
    snp.firmware(page)
    vm.vcpu.do({"touch": C_BIT | PAGE, "write": True, "value": b"debugged".hex()})
    for _ in range(2):
        snp.did("SNP_DBG_DECRYPT", gctx=vm.gctx, src=vm.pages[1], dst=page)
        assert snp.read(page, 8) == b"debugged"
        snp.did("SNP_GUEST_STATUS", gctx=vm.gctx, status=page)
        assert struct.unpack_from("<QIB", snp.read(page, 13)) == (POLICY | 1 << 19, vm.asid, 2)
    snp.take_back(page)


def test_debugging_looks_up_the_large_entry_that_a_page_is_part_of(snp: Sev) -> None:
    vm = SnpVm(snp, policy=POLICY | 1 << 19)
    block = snp.alloc(2 * MIB, 2 * MIB)
    plain = snp.alloc()
    snp.firmware(plain)
    snp.give(block, 2 * MIB, vm.asid, size=1)
    vm.tables.map(2 * MIB, block, shift=21)
    left = vm.vcpu.do(
        {"insn": "pvalidate", "rax": 2 * MIB, "ecx": 1, "edx": 1},
        {"touch": C_BIT | 2 * MIB + 5 * PAGE, "write": True, "value": b"inside".hex()},
    )
    assert left["steps"][1] == {}
    assert snp.cmd("SNP_LAUNCH_UPDATE", gctx=vm.gctx, flags=2, pa=block + 5 * PAGE) == 0x1A
    snp.did("SNP_DBG_DECRYPT", gctx=vm.gctx, src=block + 5 * PAGE, dst=plain)
    assert snp.read(plain, 6) == b"inside"


# -- where no large page is below --------------------------------------------------------------------------


def test_a_large_page_of_a_guests_shows_as_what_lies_below(sev: Sevs, sev_depth: int) -> None:
    host = sev(profile="scattered")
    host.snp_up()
    block = host.alloc(2 * MIB, 2 * MIB)
    host.give(block, 2 * MIB, asid=1, size=1, immutable=1)
    small = 5 | 2 * MIB + 7 * PAGE | 1 << 51
    assert host.entry(block + 7 * PAGE)[0] == (small if sev_depth else 1)  # difference: scattered
    if not sev_depth:
        assert number(host.insn("psmash", rax=block)["rax"]) == 0
    assert host.entry(block + 7 * PAGE)[0] == small
    assert host.cmd("SNP_PAGE_UNSMASH", pa=block) == (0x15 if sev_depth else 0)  # difference: scattered


def test_what_works_on_a_large_page_needs_one_below(sev: Sevs, sev_depth: int) -> None:
    """Else a guest host would stop the level below, which has no such page to lend to the firmware."""
    host = sev(profile="scattered")
    host.snp_up()
    vm = SnpVm(host, policy=POLICY | 1 << 19)
    block = host.alloc(2 * MIB, 2 * MIB)
    assert host.rmpupdate(block, size=1, immutable=1) == 0
    status = host.cmd("SNP_DBG_DECRYPT", gctx=vm.gctx, src=vm.pages[1], dst=block)
    assert status == (0x15 if sev_depth else 0)  # difference: scattered


@pytest.mark.parametrize("flags", [DATA, METADATA | ROOT, 1])
def test_nothing_comes_back_to_a_large_page_of_the_firmwares(sev: Sevs, flags: int) -> None:
    host = sev(profile="scattered")
    host.snp_up()
    swapper = Swapper(host)
    block = host.alloc(2 * MIB, 2 * MIB)
    assert host.rmpupdate(block, size=1, immutable=1) == 0
    assert swapper.swap("SNP_PAGE_SWAP_IN", swapper.out, block, flags=flags) == 0x1B


def test_a_large_page_goes_out_where_one_lies_below(sev: Sevs, sev_depth: int) -> None:
    """Of a legacy guest, whose pages the firmware knows nothing of, the same."""
    host = sev(profile="scattered")
    host.sev_up()
    handle = host.launched()
    source, target = (host.alloc(2 * MIB, 2 * MIB) for _ in range(2))
    swap = {"handle": handle, "src": source, "dst": target, "mdata": host.alloc(), "flags": 1}
    assert host.cmd("SWAP_OUT", **swap) == (0x15 if sev_depth else 0)  # difference: scattered


# -- memory that the RMP does not cover --------------------------------------------------------------------


@pytest.fixture
def short(sev: Sevs) -> Sev:
    """A host whose RMP ends before its memory does."""
    host = sev()
    host.alloc(MIB, MIB, above=RMP_AT)
    host.cpus_up(RMP_AT, MIB)  # covers 252 MiB
    host.did("SNP_INIT")
    host.flush("SNP_DF_FLUSH")
    return host


BEYOND = 300 * MIB


def test_pages_are_swapped_to_memory_beyond_the_table(short: Sev) -> None:
    swapper = Swapper(short)
    page = swapper.vm.pages[1]
    swapper.vm.vcpu.do({"touch": C_BIT | PAGE, "write": True, "value": b"far away".hex()})
    swapper.pre_swap(page, PAGE)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", page, BEYOND) == 0
    kept = short.read(BEYOND, PAGE)
    assert b"far away" not in kept
    short.write(BEYOND, bytes(PAGE))
    assert swapper.swap("SNP_PAGE_SWAP_IN", BEYOND, page) == 0x0B, "it was the host's own all along"
    short.write(BEYOND, kept)
    assert swapper.swap("SNP_PAGE_SWAP_IN", BEYOND, page) == 0
    assert swapper.read(PAGE) == b"far away"
    block = short.alloc(2 * MIB, 2 * MIB, below=200 * MIB)
    short.give(block, 2 * MIB, swapper.vm.asid, size=1, immutable=1)
    assert swapper.swap("SNP_PAGE_SWAP_OUT", block, BEYOND, flags=1) == 0x19, "nothing is large there"


def test_nothing_beyond_the_table_is_joined(short: Sev) -> None:
    assert short.cmd("SNP_PAGE_UNSMASH", pa=BEYOND) == 0x1A


def test_metadata_moves_to_memory_that_a_command_may_name(swapper: Swapper) -> None:
    """The RMP's own pages are the firmware's, too."""
    host = swapper.host
    assert host.cmd("SNP_PAGE_MOVE", gctx=swapper.vm.gctx, src=swapper.mdata, dst=RMP_AT) == 0x1A
    assert host.entry(swapper.mdata)[0] >> 48 & 1 == 1
