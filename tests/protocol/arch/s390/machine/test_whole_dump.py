"""A guest is dumped whole, and the owner's keys open the dump to exactly the memory that the guest had.

How large it is: NESTBED_DUMP_MIB, 16 if not given; `./x endurance` takes 1024. Every page is written by the
guest itself with contents of its own, but for holes that it never touches and pages that it shares.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b

import pytest
from guest_bench import FREE, MIB, PAGE, SEED, WORK, Bench, Guest

from benchmarks.progress import Progress
from protocol.arch.s390.compose import compose
from protocol.arch.s390.evidence import dump as form
from protocol.arch.s390.guest import Touch
from protocol.arch.s390.profiles import PROFILES

SIZE = int(os.environ.get("NESTBED_DUMP_MIB", "16"))  # MiB
MEMORY_MIB = max(2200, SIZE + 1200)  # of the host
HOLE, SHARED = 97, 1009  # every so many pages one is never touched, one is shared
BATCH = 256  # pages of one entry
KERNEL = b"a kernel " * 600


def content(page: int) -> bytes:
    """What the guest writes into a page: 4096 bytes that no other page has."""
    return blake2b(page.to_bytes(8, "big")).digest() * (PAGE // 64)


def touched(size: int) -> Iterator[int]:
    """The pages that the guest writes."""
    return (page for page in range(FREE // PAGE, size * MIB // PAGE) if page % HOLE)


def grown(bench: Bench) -> tuple[Guest, dict[int, bytes]]:
    """A guest all of whose memory is in use, and what is in the pages that are none of the pattern."""
    guest = bench.boot(bench.image(), mib=SIZE)
    pages = list(touched(SIZE))
    for at in range(0, len(pages), BATCH):
        batch = pages[at : at + BATCH]
        for page in batch:
            guest.secure(page * PAGE)
        guest.run(*(Touch(page * PAGE, True, content(page)) for page in batch))
    for page in pages:
        if page % SHARED == 0:
            guest.call(0x30, 0x1000, q20=page * PAGE).done()
    special = {page: guest.read(page * PAGE, PAGE) for page in (0, 1, WORK // PAGE, 0x10, 0x11)}
    assert (special[0x10] + special[0x11]).rstrip(b"\0") == KERNEL
    return guest, special


class Dump:
    """What the host gathers: section 6 row 11. Memory stays where it is until a page is asked for."""

    def __init__(self, bench: Bench, guest: Guest) -> None:
        self.bench, self.guest = bench, guest
        bench.call(0x40, 0x0400, q18=guest.handle).done()
        self.cpu = self._area(bench.profile.cpu_len, 0x0402, guest.cpus[0])
        for where in guest.pages.values():
            if bench.uv.refusal(where, PAGE) is not None:  # secure
                bench.call(0x20, 0x0201, q18=where).done()
        self.state = b"".join(
            self._area(0x1000, 0x0401, guest.handle, q28=gaddr) for gaddr in range(0, guest.length, MIB)
        )
        self.completion = self._area(0x1000, 0x0403, guest.handle)

    def _area(self, length: int, code: int, handle: int, **fields: int) -> bytes:
        at = self.bench.alloc(length // PAGE)
        self.bench.call(0x50, code, q18=handle, q20=at, **fields).done()
        return self.bench.read(at, length)

    def opened(self, cck: bytes) -> Iterator[tuple[int, bytes]]:
        """Every page of the guest in the clear, one after the other: a gibibyte need not fit twice."""
        keys = form.open_completion(cck, self.completion)
        for page in range(len(self.state) // form.COMPONENT_BYTES):
            component = self.state[page * form.COMPONENT_BYTES :][: form.COMPONENT_BYTES]
            flags = form.flags_of(component)
            if flags is not None and flags & form.ZERO:
                yield page, bytes(PAGE)
                continue
            data = self.bench.read(self.guest.pages[page])
            yield page, data if flags is not None else form.open_page(keys, component, data)


def bench_at(depth: int) -> Bench:
    rig = compose(PROFILES["small"], depth, 1, MEMORY_MIB * MIB, 2, SEED)
    return Bench(rig.seats[0].level)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1])
def test_a_dump_opens_to_exactly_the_guests_memory(depth: int) -> None:
    bench = bench_at(depth)
    guest, special = grown(bench)
    wanted = set(touched(SIZE))
    dump = Dump(bench, guest)
    image = guest.image
    assert image is not None
    seen, said = 0, Progress(f"dump at depth {depth}", SIZE * MIB // PAGE, "pages opened")
    for page, data in dump.opened(image.cck):
        right = special.get(page) or (content(page) if page in wanted else bytes(PAGE))
        assert data == right, f"page {page:#x}"
        seen += 1
        said(seen)
    assert seen == SIZE * MIB // PAGE
    cpu = form.open_cpu(form.open_completion(image.cck, dump.completion).gcm, dump.cpu)
    assert cpu.psw == (0x0000_0001_8000_0000 << 64 | 0x10000).to_bytes(16, "big"), "64-bit, at the kernel"
    ciphertext = bench.read(guest.pages[FREE // PAGE + (FREE // PAGE % HOLE == 0)])
    assert ciphertext != content(FREE // PAGE), "the host has the ciphertext alone"


@pytest.mark.slow
def test_another_owners_key_opens_nothing() -> None:
    bench = bench_at(0)
    guest = bench.boot(mib=2)
    dump = Dump(bench, guest)
    with pytest.raises(form.DumpError):
        next(dump.opened(bytes(32)))
