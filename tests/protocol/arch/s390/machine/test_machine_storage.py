"""A host's accesses to a machine: refused alike whoever asks how, and nothing half done."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine import Handles, Machine
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.profiles import PROFILES
from protocol.effects import Fault
from protocol.ledger import Ledger

PAGE = 0x1000
SIZE = 16 * PAGE

states = st.lists(st.sampled_from(PageState), min_size=16, max_size=16)
address = st.integers(0, SIZE + 2 * PAGE)


def machine(of: list[PageState]) -> Machine:
    made = Machine(PROFILES["small"], SIZE, [Cpu(0)], CALLS, Ledger())
    made.state[:] = of
    return made


@settings(max_examples=60)
@given(states, address, st.binary(min_size=1, max_size=64), st.integers(1, 128))
def test_a_store_is_refused_whole_where_a_load_is(
    of: list[PageState], at: int, piece: bytes, times: int
) -> None:
    uv, data = machine(of), piece * times
    inside = at + len(data) <= SIZE
    touched = range(at // PAGE, (at + len(data) - 1) // PAGE + 1)
    bad = [page for page in touched if inside and of[page] in (PageState.SECURE, PageState.DONATED)]
    load, refusal, store = uv.read(at, len(data)), uv.refusal(at, len(data)), uv.write(at, data)
    if inside and not bad:
        assert (load, refusal, store) == (bytes(len(data)), None, None)
        assert uv.read(at, len(data)) == data
        return
    assert isinstance(load, Fault)
    assert refusal is not None
    assert refusal == store
    want = (0x3D, max(at, bad[0] * PAGE)) if inside else (0x05, max(at, SIZE))
    assert (load.code, load.address, load.write) == (*want, False)
    assert (refusal.code, refusal.address, refusal.write) == (*want, True)
    uv.state[:] = 0
    readable = uv.read(at // PAGE * PAGE, min(2 * PAGE, SIZE - at // PAGE * PAGE)) if at < SIZE else b""
    assert isinstance(readable, bytes)
    assert not any(readable), "a refused store stored something"


@given(states, st.integers(-2, 18), st.integers(1, 18))
def test_storage_can_be_donated_where_all_of_it_is_plain(of: list[PageState], first: int, count: int) -> None:
    inside = first >= 0 and first + count <= 16
    plain = inside and all(state is PageState.NORMAL for state in of[first : first + count])
    assert machine(of).usable(first, count) == plain


def test_a_reset_leaves_a_machine_as_new_but_for_its_hosts_own_memory() -> None:
    uv = machine([PageState.NORMAL, PageState.SECURE, PageState.SHARED, PageState.DONATED] * 4)
    for page in range(16):
        uv.storage.write(page * PAGE, b"ram")
    uv.storage.vault_write(1, 0, b"secret")
    uv.ready = True
    uv.cpus[0].prefix = 0x2000
    uv.reset(clear_memory=False)
    assert not uv.state.any()
    assert not uv.ready
    assert uv.cpus[0] == Cpu(0)
    assert uv.storage.vault_is_clear(1)
    assert [uv.read(page * PAGE, 3) for page in range(4)] == [b"ram", bytes(3), bytes(3), bytes(3)]
    uv.reset(clear_memory=True)
    assert uv.read(0, SIZE) == bytes(SIZE)


def test_looking_at_a_machine_counts_its_pages() -> None:
    uv = machine(
        [PageState.PINNED, PageState.SHARED, PageState.SHARED, PageState.SECURE] + [PageState.DONATED] * 12
    )
    assert uv.statistics() == {
        "te": {"configs": 0, "cpus": 0, "pins": 1, "shared_pages": 3},
        "donated_pages": 12,
        "secure_pages": 1,
    }


def test_handles_are_drawn_from_a_seed_and_never_twice() -> None:
    def draw(source: Handles) -> Callable[[str], list[int]]:
        return lambda kind: [source.new(kind) for _ in range(200)]

    first, second, other = (draw(Handles(seed)) for seed in (1, 1, 2))
    configs, cpus = first("config"), first("cpu")
    assert (configs, cpus) == (second("config"), second("cpu"))
    assert len({*configs, *cpus, *other("config")}) == 600
    assert 0 not in configs
    assert all(handle & 1 for handle in configs), "no handle is another one's with its last bit wrong"


def test_siblings_draw_their_handles_from_one_source() -> None:
    source = Handles(1)
    alone = Handles(1)
    assert [source.new("config"), source.new("config")] == [alone.new("config"), alone.new("config")]
