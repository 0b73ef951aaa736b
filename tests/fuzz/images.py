"""Images of guests: whoever asks for a guest brings one, and a file may hold anything."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random
from typing import Any

import msgpack
from draw import anything, changed, number
from papers import said, spoilt

from protocol.arch import kinds, load
from protocol.arch.pef import fdt
from protocol.arch.sev import image as sev
from protocol.arch.sev import ovmf
from protocol.arch.sev.structs import PAGE
from protocol.arch.sev.vmsa import VCPU_TYPES
from protocol.arch.tdx import firmware as tdvf
from protocol.crossing import inline
from protocol.errors import OperationalError
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES


def s390_image(random: Random) -> Iterator[str]:
    """Image files of s390 with mistakes, and other bytes."""
    owner: Any = load("s390").owner  # type: ignore[attr-defined]
    made, _ = owner.build(
        {"kernel": random.randbytes(8192), "initrd": b"", "cmdline": b""}, seed=1, machines=[1]
    )
    for _ in range(8):
        data = spoilt(random, made) if random.random() < 0.8 else random.randbytes(5000)
        for look in (owner.measure, partial(owner.describe, machines=[1]), partial(_head, owner)):
            yield said(lambda look=look, data=data: look(data), ValueError)


def _head(owner: Any, data: bytes) -> None:
    """As a run looks at an image before it begins: the head alone, and how long the file is."""
    head = data[:0x2000]
    if owner.is_image(head):
        owner.pages(head, len(data), 1)
        owner.no_dumps(head)


def carried_image(random: Random) -> Iterator[str]:
    """What a requester of hosted guests puts up, and an L0 unpacks, of every kind."""
    for _ in range(6):
        comparison: Any = load(random.choice(kinds())).comparison
        made = comparison.pack_image(comparison.image(1, 2, None))
        data = spoilt(random, made)
        if random.random() < 0.5:
            try:
                data = msgpack.packb([anything(random), [[anything(random) for _ in range(4)]]])
            except (TypeError, ValueError, OverflowError):
                continue
        yield said(lambda comparison=comparison, data=data: _unpacked(comparison, data), ValueError)


def _unpacked(comparison: Any, data: bytes) -> None:
    """It is what a loader works on, and packs again to the same."""
    found = comparison.unpack_image(data)
    again = comparison.pack_image(found)
    assert comparison.pack_image(comparison.unpack_image(again)) == again
    if not isinstance(found, bytes):
        assert isinstance(found.header, bytes)
        assert all(isinstance(page.gaddr, int) and len(page.data) == PAGE for page in found.pages)


# -- firmware ----------------------------------------------------------------------------------------------


@cache
def ovmf_image() -> bytes:
    """A firmware as OVMF describes itself: metadata with three sections, then the table of GUIDs."""
    made = bytearray(2 * PAGE)
    sections = [(0x80_0000, PAGE, 1), (0x80_D000, PAGE, 2), (0x80_E000, PAGE, 3), (0x81_0000, PAGE, 0x10)]
    body = b"".join(ovmf._SECTION.pack(*each) for each in sections)
    head = ovmf._HEADER.pack(b"ASEV", ovmf._HEADER.size + len(body), 1, len(sections))
    made[0x1000 : 0x1000 + len(head + body)] = head + body
    place = len(made) - 0x1000
    words = ((ovmf._METADATA, place), (ovmf._HASH_TABLE, 0x81_0C00), (ovmf._RESET_BLOCK, 0x80_B004))
    table = b""
    for guid, word in words:
        table += word.to_bytes(4, "little") + ovmf._ENTRY.pack(4 + ovmf._ENTRY.size, guid)
    table += ovmf._ENTRY.pack(len(table) + ovmf._ENTRY.size, ovmf._FOOTER)
    end = len(made) - ovmf._FROM_END
    made[end - len(table) : end] = table
    return bytes(made)


def sev_image(random: Random) -> Iterator[str]:
    """Firmware and what is wrapped around it, for guests of all three kinds."""
    for _ in range(8):
        data = _firmware(random, ovmf_image())
        vcpu_type = random.choice([*VCPU_TYPES, "none"])
        hashes = b"" if random.random() < 0.5 else random.randbytes(random.choice((1, 0xA0, PAGE)))
        yield said(lambda data=data, kind=vcpu_type: sev.firmware_image(data, kind), ValueError)
        packed = _wrapped(random, data, vcpu_type, hashes)
        vcpus, snp = random.randrange(1, 3), random.random() < 0.6
        yield said(lambda image=packed, vcpus=vcpus, snp=snp: _launched(image, vcpus, snp), ValueError)


def _wrapped(random: Random, data: bytes, vcpu_type: str, hashes: bytes) -> bytes:
    body = [vcpu_type, hashes, data]
    if random.random() < 0.2:
        body[random.randrange(3)] = anything(random)
    try:
        packed = msgpack.packb(body)
    except (TypeError, ValueError, OverflowError):
        packed = b"\xc1"
    whole = sev._HEAD.pack(sev._MAGIC, len(packed)) + packed
    whole = changed(random, whole) if random.random() < 0.2 else whole
    return whole + bytes(-len(whole) % PAGE)


def _launched(image: bytes, vcpus: int, snp: bool) -> None:
    """Whole pages, but for a table of hashes, and not more of them than a guest could have."""
    launch = sev.launch_of(image, vcpus, snp)
    for page in launch.pages:
        assert len(page.data) == PAGE or not snp, page
    assert len(launch.vmsas) == vcpus


def _firmware(random: Random, right: bytes) -> bytes:
    """Another number where the firmware describes itself; now and then of another length."""
    made = bytearray(right)
    tail = len(made) - random.choice((0x100, 0x1000))
    for _ in range(random.randrange(3)):
        at = tail + 4 * random.randrange((len(made) - tail) // 4)
        value = number(random, (struct.unpack_from("<I", made, at)[0],), bits=32)
        made[at : at + 4] = value.to_bytes(4, "little")
    return bytes(made[: random.choice((len(made), len(made), len(made), PAGE, 100, 0))])


@cache
def tdvf_image() -> bytes:
    """A firmware as TDVF describes itself."""
    made = bytearray(2 * PAGE)
    sections = (
        (0, PAGE, 0xFFFF_F000, PAGE, 0, 1),
        (0, 0, 0x80_9000, PAGE, 2, 0),
        (0, 0, 0x81_0000, PAGE, 3, 0),
    )
    body = b"".join(tdvf.SECTION.pack(*each) for each in sections)
    size = tdvf.DESCRIPTOR.size + len(body)
    at = 0x1000
    made[at : at + size] = tdvf.DESCRIPTOR.pack(tdvf.SIGNATURE, size, tdvf.VERSION, len(sections)) + body
    table = tdvf.OFFSET.pack(len(made) - at) + tdvf.ENTRY.pack(tdvf.ENTRY.size + 4, tdvf.METADATA)
    table += tdvf.ENTRY.pack(len(table) + tdvf.ENTRY.size, tdvf.FOOTER)
    end = len(made) - tdvf.FOOTER_END
    made[end - len(table) : end] = table
    return bytes(made)


def tdx_image(random: Random) -> Iterator[str]:
    """Firmware that says which pages go where: placed and measured, or refused."""
    for _ in range(4):
        data = _firmware(random, tdvf_image())
        yield said(lambda data=data: _placed(data), ValueError)


def _placed(data: bytes) -> None:
    for page in tdvf.placed(data, FIRST_PAGES * PAGE):
        assert page.gpa % PAGE == 0
        assert len(page.data) == PAGE or not tdvf.sections(data)
    assert len(tdvf.mrtd(data, FIRST_PAGES * PAGE)) == 48


def tree(random: Random) -> Iterator[str]:
    """Device trees, as a guest on POWER hands one to its ultravisor."""
    right = fdt.pack(fdt.Node({"a": b"\0\0\0\1", "name": b"x\0"}, {"chosen": fdt.Node({"b": b"12345"}, {})}))
    for _ in range(20):
        data = spoilt(random, right)
        yield said(lambda data=data: fdt.unpack(data), ValueError)
        yield said(lambda data=data: fdt.total_size(data), ValueError)


# -- a host that loads what it was sent --------------------------------------------------------------------


def loaded_image(random: Random) -> Iterator[str]:
    """An L0 makes a guest of an image that a requester sent: it runs, or the host says why not and lives."""
    name = random.choice(kinds())
    comparison: Any = load(name).comparison
    memory = max(64, load(name).profiles["small"].host_least_mib()[0] + 8) << 20
    rig = comparison.compose(Sizes("small", 0, 1, memory, 2, 1, {}), Ledger())
    made, bulk = comparison.image(1, 2, None), name != "pef" and random.random() < 0.5
    host = comparison.software(rig, 0, Random(0), pages="two_fault", bulk=bulk, image=made)
    inline(host.perform(op.BootHost()), rig.below(0))
    for guest in range(4):
        sent = _sent(random, name, comparison, made)
        try:
            host.image = comparison.unpack_image(sent)
        except ValueError:
            yield "refused"
            continue
        acts = (op.Create(guest, 4, 1), op.Load(guest), op.Start(guest))
        yield said(
            lambda acts=acts: [inline(host.perform(act), rig.below(0)) for act in acts], OperationalError
        )
        inline(host.perform(op.Kill(guest)), rig.below(0))
    assert not list(rig.leaks()), list(rig.leaks())[:4]


def _sent(random: Random, name: str, comparison: Any, made: Any) -> bytes:
    """Mostly an image that can be unpacked."""
    if name in FIRMWARE and random.random() < 0.6:
        data = _firmware(random, FIRMWARE[name]())
        return _wrapped(random, data, next(iter(VCPU_TYPES)), b"") if name != "tdx" else data
    if isinstance(made, bytes):
        return spoilt(random, comparison.pack_image(made))
    pages = [
        [number(random, [page.gaddr]) if random.random() < 0.3 else page.gaddr, *page.tweak, page.data]
        for page in made.pages
    ]
    header = spoilt(random, made.header) if random.random() < 0.5 else made.header
    packed: bytes = msgpack.packb([header, pages * random.randrange(3)])
    return packed


FIRMWARE: dict[str, Callable[[], bytes]] = {
    "sev": ovmf_image, "sev-es": ovmf_image, "snp": ovmf_image, "tdx": tdvf_image,
}  # fmt: skip

TARGETS: tuple[Callable[[Random], Iterator[str]], ...] = (
    s390_image, carried_image, loaded_image, sev_image, tdx_image, tree,
)  # fmt: skip
