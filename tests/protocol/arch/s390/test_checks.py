"""The checks of the create calls and of Init, as properties of what they let through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.s390 import checks
from protocol.arch.s390 import cpu as z
from protocol.arch.s390.checks import ConfigPlan, CpuPlan, InitPlan
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import CreateConfig, CreateCpu
from protocol.effects import Fault

PAGE, MIB, GIB = 0x1000, 0x100000, 0x40000000
SMALL = replace(PROFILES["small"], conf_base_len=4 * PAGE, conf_virtual_len=PAGE, base_len=MIB)
SIZE = 64 * PAGE


class View:
    """A host of 64 pages; `taken` are not its own, `in_use` are configurations with their CPUs' numbers."""

    def __init__(
        self, size: int = SIZE, taken: set[int] | None = None, prefixes: tuple[int, ...] = (0,)
    ) -> None:
        self.profile = SMALL
        self.size = size
        self.cpus = [
            Cpu(number, running=number == 0, prefix=prefix) for number, prefix in enumerate(prefixes)
        ]
        self.ready = False
        self.asking: tuple[int, ...] = ()
        self.taken = taken or set()
        self.asces: dict[int, set[int]] = {}
        self.homes: dict[int, int] = {}

    def usable(self, first: int, count: int) -> bool:
        return (
            first >= 0
            and first + count <= self.size // PAGE
            and not self.taken & set(range(first, first + count))
        )

    def accessible(self, address: int) -> bool:
        return 0 <= address < self.size and address // PAGE not in self.taken

    def home(self, cpu: Cpu, address: int, write: bool) -> int | Fault:
        if not cpu.dat:
            return cpu.real(address)
        frame = self.homes.get(address // PAGE)
        return (
            z.program(z.PAGE_TRANSLATION, address, write) if frame is None else frame * PAGE + address % PAGE
        )

    def configs_in_use(self) -> int:
        return len(self.asces)

    def asce_in_use(self, asce: int) -> bool:
        return asce in self.asces

    def numbers_in_use(self, config: int) -> Iterable[int]:
        return self.asces[config]


pages = st.integers(-2, 70).map(lambda page: page * PAGE % (1 << 64))
configs = st.builds(
    CreateConfig,
    base=pages,
    variable=pages,
    flags=st.just(0),
    mso=st.sampled_from([0, 0, 0, MIB, SMALL.max_storage, 1 << 60]),
    length=st.sampled_from([MIB, MIB, 2 * MIB, 0, SMALL.max_storage, SMALL.max_storage + MIB, 1 << 63]),
    sca=pages,
    asce=st.sampled_from([0x100, 0x100, 0x5100, 0, 0x120]),
)
hosts = st.builds(
    View,
    taken=st.sets(st.integers(0, 63), max_size=6),
    prefixes=st.lists(st.integers(0, 30).map(lambda at: at * 2 * PAGE), min_size=1, max_size=3).map(tuple),
)


def lowcores(view: View) -> set[int]:
    return {cpu.prefix // PAGE + half for cpu in view.cpus for half in (0, 1)}


@given(hosts, configs)
def test_a_configuration_that_is_let_through_takes_plain_memory_and_nothing_twice(
    view: View, fields: CreateConfig
) -> None:
    plan = checks.create_config(view, view.cpus[0], bytes(fields.pack()))
    if isinstance(plan, int):
        assert plan in {0x31, 0x32, 0x101, 0x102, 0x105, 0x108, 0x109, 0x10A, 0x10C, 0x10D}
        return
    base, variable = list(plan.base), [int(frame) for frame in plan.variable]
    assert len(base) * PAGE == SMALL.conf_base_len
    assert len(variable) * PAGE == SMALL.variable_len(fields.length)
    assert len({*base, *variable}) == len(base) + len(variable)
    assert view.usable(base[0], len(base)) and all(view.usable(frame, 1) for frame in variable)
    assert not lowcores(view) & set(base)
    assert fields.mso + fields.length <= SMALL.max_storage
    assert fields.asce & 0x120 == 0x100
    assert fields.sca and view.accessible(fields.sca)
    assert plan.fields == fields


@given(hosts, pages, pages, st.integers(0, 9))
def test_a_cpu_that_is_let_through_takes_one_plain_page(
    view: View, storage: int, state: int, number: int
) -> None:
    view.asces = {5: {1, 2}}
    plan = checks.create_cpu(view, bytes(CreateCpu(5, storage, number, state).pack()))
    if isinstance(plan, int):
        assert plan in {0x103, 0x104, 0x105, 0x106, 0x107}
        return
    assert list(plan.storage) == [storage // PAGE]
    assert view.usable(storage // PAGE, 1) and storage // PAGE not in lowcores(view)
    assert view.accessible(state)
    assert number <= SMALL.max_cpu_id and number not in (1, 2)


@given(st.integers(0, 3 * GIB), st.integers(-PAGE, PAGE), st.integers(1, 2))
def test_init_takes_whole_mibs_above_2_gib(origin: int, off_by: int, running: int) -> None:
    view = View(size=3 * GIB, prefixes=(0, 0))
    for cpu in view.cpus[:running]:
        cpu.running = True
    plan = checks.init(view, origin, SMALL.base_len + off_by)
    if isinstance(plan, int):
        assert plan in {0x102, 0x103, 0x104, 0x105, 0x108}
        assert plan != 0x104 or origin >= view.size
        return
    assert running == 1
    assert 0 <= off_by < PAGE
    first = origin // MIB * MIB
    assert first >= 2 * GIB and first + SMALL.base_len <= view.size
    assert plan == InitPlan(range(first // PAGE, (first + SMALL.base_len) // PAGE))


def test_variable_storage_follows_the_home_space_page_by_page() -> None:
    view = View()
    cpu = Cpu(0, dat=True)
    view.homes = {0x500: 40, 0x501: 20}
    fields = CreateConfig(0x8000, 0x500000, 0, 0, MIB, 0x1F000, 0x100)
    plan = checks.create_config(view, cpu, bytes(fields.pack()))
    assert isinstance(plan, ConfigPlan)
    assert list(plan.variable) == [40, 20]
    view.homes[0x501] = 40
    assert checks.create_config(view, cpu, bytes(fields.pack())) == checks.VARIABLE_NOT_USABLE
    del view.homes[0x501]
    assert checks.create_config(view, cpu, bytes(fields.pack())) == 0x0031
    view.homes[0x501] = 64
    assert checks.create_config(view, cpu, bytes(fields.pack())) == 0x0032


def test_a_guest_that_cannot_be_is_not_walked_through() -> None:
    """A length of 2 ** 63 would be a table of exabytes: the first page says whether it translates."""
    view = View()
    walked: list[int] = []
    home = view.home
    view.home = lambda cpu, address, write: walked.append(address) or home(cpu, address, write)  # type: ignore[method-assign, func-returns-value]
    fields = CreateConfig(0x8000, 0x10000, 0, 0, 1 << 63, 0x1F000, 0x100)
    assert checks.create_config(view, view.cpus[0], bytes(fields.pack())) == 0x0102
    assert walked == [0x10000]


def test_variable_storage_that_goes_round_the_end_of_addresses_is_no_address_and_is_not_walked() -> None:
    view = View()
    cpu = Cpu(0, dat=True)
    view.home = lambda *_: pytest.fail("walked")  # type: ignore[method-assign]
    last = (1 << 64) - PAGE
    fields = CreateConfig(0x8000, last, 0, 0, MIB, 0x1F000, 0x100)
    assert SMALL.variable_len(MIB) == 2 * PAGE
    assert checks.create_config(view, cpu, bytes(fields.pack())) == checks.INVALID_ADDRESS == 0x0032


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7])
def test_variable_storage_is_for_every_begun_mib_in_whole_pages(length: int) -> None:
    profile = PROFILES["small"]
    assert profile.variable_len(length) == 0x2000 + 0x1000 * -(-length // MIB)
    odd = replace(profile, conf_variable_len=0x123)
    assert odd.variable_len(length) % PAGE == 0
    assert 0 <= odd.variable_len(length) - (0x2000 + 0x123 * -(-length // MIB)) < PAGE


def test_the_plans_are_frames() -> None:
    """Contiguous storage as numbers of frames, whatever is added to the origin below a page."""
    view = View()
    view.asces = {5: set()}
    plan = checks.create_cpu(view, bytes(CreateCpu(5, 0x9123, 0, 0x1F000).pack()))
    assert isinstance(plan, CpuPlan)
    assert list(plan.storage) == [9]
