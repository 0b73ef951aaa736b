"""Structures of the module's interface: bytes and values, there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.tdx import structs
from protocol.arch.tdx.machine.system import CPUID_CONFIGURABLE
from protocol.arch.tdx.profiles import MAX_RESERVED, Range
from protocol.arch.tdx.structs import GpaLevel, TdmrInfo, TdParams

U64S = st.integers(0, (1 << 64) - 1)
RANGES = st.builds(Range, U64S, U64S)
CONFIGS = len(CPUID_CONFIGURABLE)


@given(U64S, U64S, st.tuples(RANGES, RANGES, RANGES), st.lists(RANGES, max_size=MAX_RESERVED))
def test_a_tdmr_as_a_host_describes_it(
    base: int, size: int, pamt: tuple[Range, Range, Range], reserved: list[Range]
) -> None:
    filled = (*reserved, *(Range(0, 0),) * (MAX_RESERVED - len(reserved)))
    info = TdmrInfo(base, size, pamt, filled)
    data = info.pack()
    assert len(data) == structs.TDMR_INFO_SIZE
    assert TdmrInfo.unpack(data) == info


@given(st.binary(min_size=structs.TD_PARAMS_SIZE, max_size=structs.TD_PARAMS_SIZE))
def test_parameters_of_a_td_lose_no_byte(data: bytes) -> None:
    params = TdParams.unpack(data, CONFIGS)
    assert params.pack() == data
    assert len(params.cpuid) == CONFIGS


def test_where_parameters_lie() -> None:
    data = bytearray(structs.TD_PARAMS_SIZE)
    data[0:8] = (1).to_bytes(8, "little")
    data[8:16] = (3).to_bytes(8, "little")
    data[16:18] = (5).to_bytes(2, "little")
    data[80:128] = b"c" * 48
    params = TdParams.unpack(bytes(data), CONFIGS)
    assert (params.attributes, params.xfam, params.max_vcpus) == (1, 3, 5)
    assert params.mrconfigid == b"c" * 48


@given(U64S)
def test_a_guest_address_and_level_lose_no_bit(raw: int) -> None:
    target = GpaLevel.unpack(raw)
    assert target.gpa | target.level | target.reserved == raw
    assert target.gpa & target.level == 0
    assert target.gpa & target.reserved == 0
    assert target.aligned() == (target.gpa % (1 << (12 + 9 * target.level)) == 0)


def test_sizes_of_what_the_module_writes() -> None:
    assert structs.REPORT_MAC.size == structs.REPORT_MAC_SIZE == 256
    assert structs.REPORT_MAC_SIZE + structs.TEE_TCB_INFO.size + structs.TD_INFO.size == structs.REPORT_SIZE
    assert structs.MAC_COVERS == 224
    assert len(structs.pack_sysinfo((0,) * 17, [])) == structs.SYSINFO_SIZE
    assert len(structs.pack_cmrs([Range(1, 2)])) == 512
