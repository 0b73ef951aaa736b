"""The parts that stand by themselves: device trees, the blob, the TPM, page crypto, radix tables, memory."""

from __future__ import annotations

import contextlib
import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.pef import blob, fdt, image, radix, tpm
from protocol.arch.pef.crypto import PageKey
from protocol.arch.pef.fdt import Node
from protocol.arch.pef.kvm.frames import FREE, GIVEN, Arena, Frames, OutOfMemory
from protocol.arch.pef.machine.svm import OutOfUnits, SecureMemory
from protocol.arch.pef.tables import PAGE
from protocol.effects import Fault

names = st.text("abcdefgh,-0123456789", min_size=1, max_size=12)
nodes = st.recursive(
    st.builds(Node, st.dictionaries(names, st.binary(max_size=20), max_size=4)),
    lambda inner: st.builds(
        Node,
        st.dictionaries(names, st.binary(max_size=20), max_size=3),
        st.dictionaries(names, inner, max_size=3),
    ),
    max_leaves=6,
)
areas = st.lists(st.tuples(st.integers(1, 1 << 60), st.integers(1, 1 << 60)), max_size=4)


# -- device trees --------------------------------------------------------------------------------------------


@given(nodes, areas)
def test_a_tree_comes_back_as_it_was(tree: Node, reserved: list[tuple[int, int]]) -> None:
    data = fdt.pack(tree, reserved)
    assert fdt.total_size(data) == len(data)
    assert fdt.unpack(data + b"behind it") == (tree, reserved)


@given(nodes, st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_tree_is_refused_or_read_but_nothing_else(tree: Node, at: int, byte: int) -> None:
    data = bytearray(fdt.pack(tree))
    data[at % len(data)] = byte
    with contextlib.suppress(ValueError):
        fdt.unpack(bytes(data))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_tree_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        fdt.unpack(data)


def test_a_malformed_tree_is_refused_for_what_is_wrong_with_it() -> None:
    good = fdt.pack(Node({"seven": b"1234567"}))
    struct_at = int.from_bytes(good[8:12], "big")
    prop = struct_at + 8  # behind the root's token and its empty name
    for at, value, why in (
        (0, 7, "no device tree"),
        (struct_at, 9, "no node where one begins"),
        (prop, 8, "an unknown token"),
        (prop + 4, 1 << 20, "a property leaves it"),
        (8, len(good), "malformed device tree: unpack_from"),
    ):
        with pytest.raises(ValueError, match=why):
            fdt.unpack(good[:at] + value.to_bytes(4, "big") + good[at + 4 :])
    with pytest.raises(ValueError, match="shorter than a header"):
        fdt.unpack(good[:20])


def test_a_tree_that_lacks_what_is_asked_of_it_says_what() -> None:
    tree = Node({"short": b"\0\1", "long": b"\0" * 16, "number": b"\0\0\0\7"}, {"chosen": Node()})
    assert tree.number("number") == 7 and tree.child("chosen") == Node()
    for name in ("short", "long", "missing"):
        with pytest.raises(ValueError, match=f"no number {name}"):
            tree.number(name)
    with pytest.raises(ValueError, match="no property bootargs"):
        tree.child("chosen").data("bootargs")
    with pytest.raises(ValueError, match="no node rtas"):
        tree.child("rtas")


def test_what_says_nothing_in_a_tree_is_read_over() -> None:
    data = bytearray(fdt.pack(Node({}, {"a": Node()})))
    struct_at = int.from_bytes(data[8:12], "big")
    nop = (4).to_bytes(4, "big")
    data[struct_at + 8 : struct_at + 8] = nop  # behind the root's name
    data[4:8] = len(data).to_bytes(4, "big")
    assert fdt.unpack(bytes(data)) == (Node({}, {"a": Node()}), [])


# -- the blob and the TPM ------------------------------------------------------------------------------------

PARTS = {"rtas": b"rtas", "kernel": b"kernel" * 9, "initrd": b"initrd", "cmdline": b"quiet"}


def test_a_blob_opens_on_the_machine_that_it_is_for() -> None:
    mine, other = tpm.Tpm(1), tpm.Tpm(2)
    data, _ = fdt.unpack(blob.make(PARTS, (other.public, mine.public), {"f": b"file"}, Random(3)))
    session = tpm.Session(mine.public, Random(4))
    started = mine.execute(session.start)
    assert tpm.response(started) == (0, (1).to_bytes(4, "big"))
    mine.execute(tpm.Session(mine.public, Random(9)).start)  # somebody else talks to it, too
    key = session.opened(mine.execute(session.unseal(started, blob.lockbox_for(data, mine.public))))
    opened = blob.unsealed(data, key)
    assert (opened.digests, opened.kernel_length) == (blob.measure(PARTS), 54)
    assert opened.files == {"f": b"file"}
    with pytest.raises(ValueError, match="no lockbox"):
        blob.lockbox_for(data, tpm.Tpm(5).public)
    with pytest.raises(ValueError, match="changed"):
        blob.unsealed(data, bytes(32))


def test_who_listens_to_the_tpm_learns_nothing_that_opens_a_lockbox() -> None:
    mine = tpm.Tpm(1)
    data, _ = fdt.unpack(blob.make(PARTS, (mine.public,), {}, Random(3)))
    session = tpm.Session(mine.public, Random(4))
    started = mine.execute(session.start)
    answer = mine.execute(session.unseal(started, blob.lockbox_for(data, mine.public)))
    with pytest.raises(ValueError, match="not sealed for this session"):
        tpm.Session(mine.public, Random(5)).opened(answer)


def test_the_tpm_refuses_what_it_does_not_know() -> None:
    mine = tpm.Tpm(1)
    lockbox = bytes(80)
    wrong = (b"", b"\0" * 10, tpm.command(0x999, b""), tpm.command(tpm.UNSEAL, bytes(4) + lockbox))
    for request in wrong:
        assert tpm.response(mine.execute(request))[0] != 0
    for sealed in (b"short", lockbox):
        started = mine.execute(tpm.Session(mine.public, Random(1)).start)
        code, payload = tpm.response(mine.execute(tpm.Session.unseal(started, sealed)))
        assert code != 0 and payload == b""
    with pytest.raises(ValueError, match="the TPM answers"):
        tpm.Session.unseal(mine.execute(b""), lockbox)
    with pytest.raises(ValueError, match="the TPM answers"):
        tpm.Session(mine.public, Random(1)).opened(mine.execute(b""))
    no_point = bytes(tpm.PUBLIC_BYTES)  # whatever one multiplies it with, it stays what it is
    refused = tpm.response(mine.execute(tpm.command(tpm.START_SESSION, no_point)))
    assert refused == (tpm.RC_INTEGRITY, b"")


def test_the_tpm_keeps_the_latest_sessions() -> None:
    mine = tpm.Tpm(1)
    first = mine.execute(tpm.Session(mine.public, Random(0)).start)
    for seed in range(tpm.SESSIONS_AT_ONCE):
        mine.execute(tpm.Session(mine.public, Random(seed)).start)
    answer = mine.execute(tpm.Session.unseal(first, bytes(80)))
    assert tpm.response(answer)[0] == tpm.RC_HANDLE


@given(st.integers(1, 5 * PAGE), st.integers(1, 3 * PAGE), st.integers(0, 40))
def test_areas_of_an_image_never_touch(kernel: int, initrd: int, at: int) -> None:
    public = tpm.Tpm(0).public
    made = image.build(at * PAGE, 1 << 24, (0, 1 << 24), kernel, initrd, "x", public, "s")
    spans = sorted((area.address, area.end) for area in made.values())
    assert spans[0][0] == at * PAGE == made["kernel"].address
    assert all(later - end >= PAGE for (_, end), (later, _) in itertools.pairwise(spans))
    _, reserved = fdt.unpack(made["fdt"].data)
    assert all(any(a <= s and e <= a + n for a, n in reserved) for s, e in spans)
    assert spans[-1][1] + image.SHARED_PAGES * PAGE <= 1 << 24


# -- page crypto ---------------------------------------------------------------------------------------------


def test_ciphertext_is_as_long_as_its_page_and_never_the_same() -> None:
    key = PageKey(Random(1))
    page = b"p" * PAGE
    first, second = key.seal(page), key.seal(page)
    assert len(first[0]) == PAGE and first[0] != second[0] and first[1] != second[1]
    assert key.open(*first) == page == key.open(*second)
    assert key.open(first[0], second[1], first[2]) is None
    assert key.open(first[0], first[1], second[2]) is None
    assert PageKey(Random(2)).open(*first) is None


def test_the_fixed_field_is_drawn_again_when_the_counter_wraps() -> None:
    key = PageKey(Random(1))
    _, before, _ = key.seal(b"")
    key._counter = (1 << 64) - 1
    _, last, _ = key.seal(b"")
    _, wrapped, _ = key.seal(b"")
    assert before[:4] == last[:4] != wrapped[:4] and wrapped[4:] == bytes(8)


# -- radix tables --------------------------------------------------------------------------------------------


class Ram:
    def __init__(self) -> None:
        self.words: dict[int, bytes] = {}
        self.next = 1 << 16

    def load(self, address: int, length: int) -> bytes | Fault:
        assert length == 8
        return self.words.get(address, bytes(8))

    def store(self, address: int, data: bytes) -> Fault | None:
        self.words[address] = data
        return None

    def take(self, size: int) -> int:
        at = -(-self.next // size) * size
        self.next = at + size
        return at


pages = st.integers(0, (1 << 36) - 1).map(lambda gfn: gfn * PAGE)


@given(st.dictionaries(pages, st.integers(1, 1 << 30).map(lambda n: n * PAGE), max_size=8), st.data())
def test_a_tree_maps_what_was_put_into_it(mapping: dict[int, int], data: st.DataObject) -> None:
    ram = Ram()
    tree = radix.Tree(ram.load, ram.store, ram.take)
    for gpa, ra in mapping.items():
        tree.map(gpa, ra)
    gone = data.draw(st.sets(st.sampled_from(sorted(mapping)))) if mapping else set()
    for gpa in gone:
        assert tree.unmap(gpa) and not tree.unmap(gpa)
    root = radix.root_of(radix.entry_of(tree.root))
    for gpa, ra in mapping.items():
        leaf = radix.walk(ram.load, root, gpa + 5)
        assert leaf & radix.PAGE_ADDRESS == (0 if gpa in gone else ra)
    assert radix.walk(ram.load, root, 1 << 52) == 0 == radix.walk(ram.load, 0, 0)


def test_a_table_that_cannot_be_read_maps_nothing() -> None:
    assert radix.walk(lambda address, length: Fault(0x200, "machine check", address), 1 << 16, 0) == 0


def test_a_table_where_a_page_is_due_maps_nothing() -> None:
    ram = Ram()
    tree = radix.Tree(ram.load, ram.store, ram.take)
    tree.map(0, PAGE)
    assert radix.walk(ram.load, tree.root, 0) & radix.PAGE_ADDRESS == PAGE
    (leaf,) = (at for at, word in ram.words.items() if int.from_bytes(word, "big") & radix.LEAF)
    ram.words[leaf] = (radix.VALID | PAGE).to_bytes(8, "big")
    assert radix.walk(ram.load, tree.root, 0) == 0


# -- memory --------------------------------------------------------------------------------------------------


def test_kvm_takes_from_the_top_and_leaves_what_was_given_out() -> None:
    frames = Frames(2 << 20)  # the first MiB is the kernel's own: 16 pages are left
    top = (2 << 20) - PAGE
    assert [frames.take(), frames.take()] == [top, top - PAGE]
    frames.mark(top - 2 * PAGE, PAGE, GIVEN)
    assert frames.take() == top - 3 * PAGE
    frames.give(top)
    frames.mark(top - 2 * PAGE, PAGE, FREE)
    assert [frames.take(), frames.take()] == [top, top - 2 * PAGE]
    assert frames.taken_by_kvm(1 << 20, 12 * PAGE) is None
    assert frames.taken_by_kvm(1 << 20, 1 << 20) == top
    for _ in range(12):
        frames.take()
    with pytest.raises(OutOfMemory):
        frames.take()
    frames.forget_kvm()
    assert frames.take() == top


def test_an_arena_cuts_pages_and_gives_them_back() -> None:
    frames = Frames(2 << 20)
    arena = Arena(frames)
    got = [arena.take(size) for size in (4096, 256, 4096, PAGE, 4096)]
    for at, size in zip(got, (4096, 256, 4096, PAGE, 4096), strict=True):
        assert at % size == 0
    assert len(set(got)) == 5 and len(arena.pages) == 3
    arena.give_all()
    assert frames.taken_by_kvm(1 << 20, 1 << 20) is None


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 100)), max_size=6))
def test_units_are_counted_by_what_a_range_touches(ranges: list[tuple[int, int]]) -> None:
    secure = SecureMemory(12)
    held = []
    for number, (first, count) in enumerate(ranges):
        units = (first + count - 1) // 32 - first // 32 + 1
        free = secure.free_units
        if units > free:
            with pytest.raises(OutOfUnits):
                secure.reserve(1, number, first, count)
            continue
        slot = secure.reserve(1, number, first, count)
        assert secure.free_units == free - units and len(set(slot.frames.tolist())) == count
        assert (slot.frames % 32 == (slot.first + np.arange(count)) % 32).all()
        held.append(slot)
    taken = [frame for slot in held for frame in slot.frames.tolist()]
    assert len(taken) == len(set(taken))
    for slot in held:
        secure.release(slot)
    assert secure.free_units == 12 and not secure.owner.any()
