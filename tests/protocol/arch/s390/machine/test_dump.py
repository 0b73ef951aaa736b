"""A dump: who may have one, in which order, and that its owner alone reads it.

The owner's side is written here once more from the documented layout, with nothing of the emulator in it.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.arch.s390.evidence.dump import DumpError, open_dump
from protocol.arch.s390.guest import Diag, Read, SetCpu, Touch, Uvc
from protocol.arch.s390.image import PCF_ALLOW_DUMP, Component
from protocol.arch.s390.structs import SieExit

PAGE = 0x1000
MIB = 0x100000
FREE = 0x20000
SECRET = b"the guest's own words, " * 100
NOWHERE = 1 << 63

ZERO, SHARED, MAPPED = 0x01, 0x02, 0x04


def init(guest: Any) -> Any:
    return guest.bench.call(0x40, 0x0400, q18=guest.handle)


def storage_state(guest: Any, gaddr: int = 0, area: int | None = None, handle: int | None = None) -> Any:
    area = guest.bench.alloc() if area is None else area
    handle = guest.handle if handle is None else handle
    return guest.bench.call(0x50, 0x0401, q18=handle, q20=area, q28=gaddr)


def cpu_state(guest: Any, area: int | None = None, cpu: int = 0) -> Any:
    area = guest.bench.alloc() if area is None else area
    return guest.bench.call(0x50, 0x0402, q18=guest.cpus[cpu], q20=area)


def complete(guest: Any, area: int | None = None) -> Any:
    area = guest.bench.alloc() if area is None else area
    return guest.bench.call(0x50, 0x0403, q18=guest.handle, q20=area)


def components(guest: Any, gaddr: int = 0) -> list[bytes]:
    """What Storage State says of the 256 pages from `gaddr` on."""
    area = guest.bench.alloc()
    storage_state(guest, gaddr, area).done()
    raw = guest.bench.read(area)
    return [raw[at : at + 16] for at in range(0, PAGE, 16)]


def special(flags: int) -> bytes:
    return b"\xff" * 4 + bytes(11) + bytes((flags,))


class Owner:
    """Opens a dump with a CCK, from the layout alone."""

    def __init__(self, cck: bytes, completion: bytes) -> None:
        version, length, _, seed, iv, _ = struct.unpack_from(">IIQ64s12sI", completion)
        assert (version, length) == (1, 288)
        self.key = HKDF(SHA512(), 32, salt=seed, info=b"IBM Z Ultravisor Dump").derive(cck)
        area = AESGCM(self.key).decrypt(iv, completion[96:288], completion[:96])
        self.nonce, self.xts_key, rest = area[:16], area[16:80], area[80:]
        assert rest == bytes(96)

    def cpu(self, dump: bytes) -> bytes:
        version, length, iv = struct.unpack_from(">II12s", dump)
        assert (version, length) == (1, 1568)
        return AESGCM(self.key).decrypt(iv, dump[32:1568], dump[:32])

    def page(self, component: bytes, data: bytes) -> bytes:
        if component[:4] == b"\xff" * 4:
            return bytes(PAGE) if component[15] & ZERO else data
        tweak = bytes(one | other for one, other in zip(component, self.nonce, strict=True))
        return Cipher(algorithms.AES(self.xts_key), modes.XTS(tweak)).decryptor().update(data)


class TestWhoMayDump:
    """2.3: the configuration exists, its owner allows it, no dump is active."""

    def test_a_running_guest_whose_owner_allows_it(self, guest: Any) -> None:
        init(guest).done()
        assert guest.bench.uv.configs[guest.handle].dump is not None

    def test_a_guest_whose_owner_does_not_allow_it(self, bench: Any) -> None:
        assert init(bench.boot(bench.image(pcf=0))).rc == 0x0103

    def test_every_other_flag_together_does_not_allow_it(self, bench: Any) -> None:
        assert init(bench.boot(bench.image(pcf=0x3000_50E3 & ~PCF_ALLOW_DUMP & ~(1 << 28)))).rc == 0x0103

    def test_a_configuration_whose_image_is_not_verified(self, bench: Any) -> None:
        guest = type(bench.boot()).create(bench, 2, 1)
        assert init(guest).rc == 0x0101

    def test_a_stopped_guest(self, guest: Any) -> None:
        guest.stop()
        init(guest).done()

    def test_a_second_dump_has_to_wait_for_the_first(self, guest: Any) -> None:
        init(guest).done()
        assert init(guest).rc == 0x0104
        complete(guest).done()
        init(guest).done()


class TestOrder:
    """Of two mistakes the earlier check speaks; what fails changes nothing."""

    def test_nothing_is_given_without_a_dump(self, guest: Any) -> None:
        for call in (storage_state, cpu_state, complete):
            assert call(guest).rc == 0x0104

    def test_the_area_is_looked_at_before_the_dump(self, guest: Any) -> None:
        for call in (storage_state, cpu_state, complete):
            assert call(guest, area=NOWHERE).rc == 0x0102

    @pytest.mark.parametrize("area", ["donated", "secure", "behind", "across"])
    def test_an_area_that_the_host_cannot_store_to_is_refused(self, guest: Any, area: str) -> None:
        init(guest).done()
        where = {
            "donated": 0x8000_0000,
            "secure": guest.pages[0],
            "behind": 2200 * MIB,
            "across": 2200 * MIB - 0x800,
        }[area]
        assert storage_state(guest, area=where).rc == 0x0102
        assert cpu_state(guest, area=where).rc == 0x0102
        assert complete(guest, area=where).rc == 0x0102
        complete(guest).done()

    def test_an_address_outside_the_guest_or_inside_a_piece_is_refused(self, guest: Any) -> None:
        assert storage_state(guest, 2 * MIB).rc == 0x0104
        init(guest).done()
        assert storage_state(guest, 2 * MIB).rc == 0x0105
        assert storage_state(guest, 2 * MIB + PAGE).rc == 0x0105
        assert storage_state(guest, (1 << 64) - MIB).rc == 0x0105
        assert storage_state(guest, MIB + PAGE).rc == 0x0106
        storage_state(guest, MIB).done()

    def test_a_call_that_fails_stores_nothing(self, guest: Any) -> None:
        area = guest.bench.alloc()
        init(guest).done()
        assert storage_state(guest, MIB + 1, area).rc == 0x0106
        assert guest.bench.read(area) == bytes(PAGE)

    def test_a_dump_ends_with_its_completion(self, guest: Any) -> None:
        init(guest).done()
        complete(guest).done()
        assert cpu_state(guest).rc == 0x0104
        assert complete(guest).rc == 0x0104


class TestMeanwhile:
    """5.3: SIE is refused while the configuration is dumped, and nothing of it runs."""

    def test_sie_is_a_validity_intercept_until_the_dump_completes(self, guest: Any) -> None:
        init(guest).done()
        left = guest.enter(Touch(FREE, True, b"x"))
        assert isinstance(left, SieExit)
        assert (left.code, left.ipb >> 24) == (0x20, 0x20)
        assert guest.programs[0].results == []
        complete(guest).done()
        guest.programs[0].replace()
        assert guest.read(0x10000, 8) == b"a kernel"

    def test_another_guest_runs_on(self, guest: Any) -> None:
        other = guest.bench.boot()
        init(guest).done()
        assert other.read(0x10000, 8) == b"a kernel"

    def test_a_dump_does_not_keep_a_guest_from_being_destroyed(self, guest: Any) -> None:
        init(guest).done()
        guest.destroy_cpus()
        guest.bench.call(0x40, 0x0101, q18=guest.handle).done()
        assert storage_state(guest).rc == 0x0020

    def test_a_cpu_that_is_in_sie_when_the_dump_begins_goes_on_and_is_not_dumped(self, guest: Any) -> None:
        uv, cpu = guest.bench.uv, guest.bench.cpu
        cpu.cr[1] = guest.asce
        step = uv.enter(cpu, guest.blocks[0], guest.programs[0], True, 1)
        next(step)  # the guest runs and has nothing to do
        init(guest).done()
        assert cpu_state(guest).rc == 0x0101
        assert cpu_state(guest, area=NOWHERE).rc == 0x0101
        guest.programs[0].steps.append(Read(0x10000, 8))
        step.send(True)
        assert guest.programs[0].collect() == [{"hex": b"a kernel".hex()}]
        with pytest.raises(StopIteration) as stop:
            step.send(False)
        assert stop.value.value.code == 0x00
        cpu_state(guest).done()


class TestStorageState:
    """8.2: sixteen bytes for each page."""

    def test_pages_are_told_apart(self, guest: Any) -> None:
        guest.secure(FREE)
        guest.secure(FREE + PAGE)
        assert guest.call(0x30, 0x1000, q20=FREE + PAGE).rc == 1
        guest.secure(FREE + 2 * PAGE)
        guest.back(FREE + 3 * PAGE)
        guest.secure(FREE + 4 * PAGE)
        guest.bench.call(0x20, 0x0202, q18=guest.pages[FREE // PAGE + 4]).done()
        guest.export(FREE + 2 * PAGE)
        init(guest).done()
        got = components(guest)[FREE // PAGE :]
        assert got[0] == special(MAPPED), "secure"
        assert got[1] == special(SHARED | MAPPED)
        assert got[2][:4] != b"\xff" * 4, "exported"
        assert got[3] == special(ZERO), "never secure"
        assert got[4] == special(ZERO), "destroyed"

    def test_a_pinned_page_is_a_shared_one(self, guest: Any) -> None:
        where = guest.secure(FREE)
        assert guest.call(0x30, 0x1000, q20=FREE).rc == 1
        guest.bench.call(0x20, 0x0341, q18=where).done()
        init(guest).done()
        assert components(guest)[FREE // PAGE] == special(SHARED | MAPPED)

    def test_each_piece_is_about_its_own_pages(self, guest: Any) -> None:
        guest.secure(MIB)
        guest.secure(2 * MIB - PAGE)
        init(guest).done()
        assert components(guest)[0] == special(MAPPED)
        second = components(guest, MIB)
        assert second[0] == second[255] == special(MAPPED)
        assert second[1:255] == [special(ZERO)] * 254

    def test_each_export_has_a_component_of_its_own(self, guest: Any) -> None:
        seen = set()
        guest.secure(FREE)
        for _ in range(3):
            guest.export(FREE)
            init(guest).done()
            seen.add(components(guest)[FREE // PAGE])
            complete(guest).done()
            guest.secure(FREE)
        assert len(seen) == 3

    def test_a_page_that_came_back_is_mapped_again(self, guest: Any) -> None:
        guest.secure(FREE)
        guest.export(FREE)
        guest.secure(FREE)
        init(guest).done()
        assert components(guest)[FREE // PAGE] == special(MAPPED)


class Gathered:
    """A dump as a host gathers it: row 11 of section 6."""

    def __init__(self, guest: Any) -> None:
        bench = guest.bench
        init(guest).done()
        self.cpus = []
        for number in range(len(guest.cpus)):
            area = bench.alloc()
            cpu_state(guest, area, number).done()
            self.cpus.append(bench.read(area))
        self.memory = {}
        for page, where in guest.pages.items():
            data = bench.uv.read(where, PAGE)
            self.memory[page] = data if isinstance(data, bytes) else guest.export(page * PAGE)
        self.state = b"".join(b"".join(components(guest, gaddr)) for gaddr in range(0, guest.length, MIB))
        area = bench.alloc()
        complete(guest, area).done()
        self.completion = bench.read(area)


@pytest.fixture
def dumped(bench: Any) -> tuple[Any, Gathered]:
    """A guest with something to find, and its dump."""
    psw = bytes.fromhex("00000001800000000000000000010000")
    image = bench.image([Component(0x10000, b"a kernel " * 600, 0x7)], psw=psw)
    guest = bench.boot(image, cpus=2)
    for gaddr in (FREE, FREE + PAGE):
        guest.secure(gaddr)
    guest.secure(MIB + FREE)
    guest.write(FREE, SECRET)
    guest.write(MIB + FREE, SECRET[::-1])
    guest.write(FREE + PAGE, b"shared with the host")
    guest.call(0x30, 0x1000, q20=FREE + PAGE)
    guest.run(SetCpu(((3, 0x1234), (15, (1 << 64) - 1)), timer=0x5000, problem_state=True))
    return guest, Gathered(guest)


class TestTheOwner:
    """The dump opens with the owner's keys, in two independent ways, and with nothing else."""

    def test_reads_the_memory(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        owner = Owner(guest.image.cck, dump.completion)

        def page(number: int) -> bytes:
            return owner.page(dump.state[16 * number : 16 * number + 16], dump.memory[number])

        assert (page(0x10) + page(0x11))[:5400] == b"a kernel " * 600
        assert page(FREE // PAGE)[: len(SECRET)] == SECRET
        assert page((MIB + FREE) // PAGE)[: len(SECRET)] == SECRET[::-1]
        assert page(FREE // PAGE + 1)[:20] == b"shared with the host"

    def test_reads_the_registers(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        owner = Owner(guest.image.cck, dump.completion)
        area = owner.cpu(dump.cpus[0])
        gprs = struct.unpack_from(">16Q", area, 32 - 32)
        assert (gprs[3], gprs[15], gprs[0]) == (0x1234, (1 << 64) - 1, 0)
        assert area[160 - 32 : 176 - 32].hex() == "00010001800000000000000000010000", "in problem state"
        assert struct.unpack_from(">I", area, 184 - 32) == (0,), "prefix"
        assert struct.unpack_from(">Q", area, 200 - 32) == (0x5000,), "CPU timer"
        assert struct.unpack_from(">H", area, 1536 - 32) == (0,), "no instruction is half done"
        other = owner.cpu(dump.cpus[1])
        assert other[:1520] == bytes(1520), "this CPU has done nothing yet"

    def test_is_told_of_an_instruction_that_is_half_done(self, guest: Any) -> None:
        left = guest.enter(Diag(0x500))
        assert isinstance(left, SieExit)
        assert left.code == 0x68
        dump = Gathered(guest)
        area = Owner(guest.image.cck, dump.completion).cpu(dump.cpus[0])
        assert struct.unpack_from(">H", area, 1536 - 32) == (0x8000,)

    def test_opens_it_with_the_workbench(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        opened = open_dump(guest.image.cck, dump.completion, dump.cpus, dump.state, dump.memory)
        assert opened.length == 2 * MIB
        assert opened.read(FREE, len(SECRET)) == SECRET
        assert opened.read(0x10ABC, 20) == (b"a kernel " * 600)[0xABC:][:20]
        assert opened.read(0x10FF0, 0x20) == (b"a kernel " * 600)[0xFF0:][:0x20]
        assert opened.read(0x80000, 8) == bytes(8)
        assert opened.cpus[0].gprs[3] == 0x1234
        assert opened.cpus[0].timer == 0x5000
        assert not opened.cpus[0].interrupted
        with pytest.raises(DumpError, match="behind"):
            opened.read(2 * MIB - 4, 8)

    def test_nobody_else_opens_it(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        wrong = bytes((guest.image.cck[0] ^ 1,)) + guest.image.cck[1:]
        with pytest.raises(InvalidTag):
            Owner(wrong, dump.completion)
        with pytest.raises(DumpError, match="CCK"):
            open_dump(wrong, dump.completion, dump.cpus, dump.state, dump.memory)

    def test_the_host_reads_nothing(self, dumped: tuple[Any, Gathered]) -> None:
        _, dump = dumped
        shared = FREE // PAGE + 1
        seen = b"".join(data for page, data in dump.memory.items() if page != shared)
        seen += dump.state + dump.completion + b"".join(dump.cpus)
        assert SECRET[:16] not in seen
        assert b"a kernel" not in seen

    @pytest.mark.parametrize("at", [0, 5, 9, 96, 111, 287])
    def test_a_changed_completion_does_not_open(self, dumped: tuple[Any, Gathered], at: int) -> None:
        guest, dump = dumped
        changed = bytearray(dump.completion)
        changed[at] ^= 1
        with pytest.raises(DumpError):
            open_dump(guest.image.cck, bytes(changed), dump.cpus, dump.state, dump.memory)

    def test_the_cpus_of_two_dumps_cannot_be_exchanged(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        again = Gathered(guest)
        assert again.completion[16:80] != dump.completion[16:80], "each dump has a seed of its own"
        with pytest.raises(DumpError, match="another dump"):
            open_dump(guest.image.cck, again.completion, dump.cpus, again.state, again.memory)
        opened = open_dump(guest.image.cck, again.completion, again.cpus, again.state, again.memory)
        assert opened.read(FREE, len(SECRET)) == SECRET

    def test_memory_that_was_swapped_out_before_the_dump_needs_no_second_export(self, guest: Any) -> None:
        """Linux s390-pv-dump.rst: the time of the export does not matter."""
        guest.secure(FREE)
        guest.write(FREE, SECRET)
        swapped = guest.export(FREE)
        guest.stop()
        dump = Gathered(guest)
        assert dump.memory[FREE // PAGE] == swapped
        opened = open_dump(guest.image.cck, dump.completion, dump.cpus, dump.state, dump.memory)
        assert opened.read(FREE, len(SECRET)) == SECRET

    def test_a_page_that_was_not_exported_is_named(self, guest: Any) -> None:
        guest.secure(FREE)
        init(guest).done()
        state = b"".join(components(guest))
        area = guest.bench.alloc()
        complete(guest, area).done()
        with pytest.raises(DumpError, match="page 0x0 was secure"):
            open_dump(guest.image.cck, guest.bench.read(area), [], state, {})

    def test_a_page_that_is_missing_is_named(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        del dump.memory[FREE // PAGE]
        with pytest.raises(DumpError, match="page 0x20 has contents"):
            open_dump(guest.image.cck, dump.completion, dump.cpus, dump.state, dump.memory)

    @pytest.mark.parametrize("flags", [0x00, 0x03, 0x08, 0x80, 0x07])
    def test_flags_that_do_not_go_together_are_refused(
        self, dumped: tuple[Any, Gathered], flags: int
    ) -> None:
        guest, dump = dumped
        state = special(flags) + dump.state[16:]
        with pytest.raises(DumpError, match="flags"):
            open_dump(guest.image.cck, dump.completion, dump.cpus, state, dump.memory)

    def test_parts_that_are_too_short_are_named(self, dumped: tuple[Any, Gathered]) -> None:
        guest, dump = dumped
        with pytest.raises(DumpError, match="288 bytes"):
            open_dump(guest.image.cck, dump.completion[:100], dump.cpus, dump.state, dump.memory)
        with pytest.raises(DumpError, match="1568 bytes"):
            open_dump(guest.image.cck, dump.completion, [dump.cpus[0][:1567]], dump.state, dump.memory)


def test_the_guest_cannot_issue_dump_calls(guest: Any) -> None:
    """2.0: a guest sees calls of hosts as not installed."""
    for code, length in ((0x0400, 0x40), (0x0401, 0x50), (0x0402, 0x50), (0x0403, 0x50)):
        assert guest.call(length, code).rc == 0x0002


def test_a_cpu_dump_shows_the_whole_area_the_query_reports(guest: Any) -> None:
    area = guest.bench.alloc(2)
    assert guest.bench.uv.write(area, b"\xee" * 2 * PAGE) is None
    init(guest).done()
    cpu_state(guest, area).done()
    after = guest.bench.read(area, 2 * PAGE)
    assert after[1568:PAGE] == bytes(PAGE - 1568)
    assert after[PAGE:] == b"\xee" * PAGE


def test_a_guest_call_inside_a_dump_does_not_run(guest: Any) -> None:
    init(guest).done()
    left = guest.enter(Uvc(0x8000))
    assert isinstance(left, SieExit)
    assert left.code == 0x20
