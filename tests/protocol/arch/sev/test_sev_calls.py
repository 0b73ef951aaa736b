"""The command table:

what the documents count, and that nothing in it is without a treatment, a layout, a handler.
"""

from __future__ import annotations

from collections import Counter

import pytest

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.nesting.treatments import TREATMENTS
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import LAYOUTS, LENGTH_BACK, WRITTEN, Buffer, Layout
from protocol.calls import Category, Treatment, less_emulation_higher_up

HANDLE_ONLY = {"DEACTIVATE", "DECOMMISSION", "LAUNCH_FINISH", "SEND_FINISH", "SEND_CANCEL", "RECEIVE_FINISH"}
NAMES = {spec.name: spec for spec in CALLS.values()}


def test_there_are_seventy_commands_in_the_documented_groups() -> None:
    snp = [name for name in NAMES if name.startswith("SNP_")]
    legacy_platform = [spec for spec in CALLS.values() if spec.code < 0x20]
    snp_platform = [name for name in snp if NAMES[name].code in (*range(0x81, 0x87), *range(0xC9, 0xCF))]
    assert (len(CALLS), len(legacy_platform), len(snp_platform), len(snp)) == (70, 15, 11, 29)


def test_treatments_are_those_of_the_documents() -> None:
    """27 emulated there: ours has an identity per host, so PDH_CERT_EXPORT and GET_ID are emulated, too."""
    by = Counter(spec.treatment for spec in CALLS.values())
    assert by == {Treatment.EMULATED: 29, Treatment.MODIFIED: 35, Treatment.PASSED: 6}
    assert {spec.name for spec in CALLS.values() if spec.treatment is Treatment.PASSED} == HANDLE_ONLY


def test_no_snp_command_passes_untouched_because_its_handle_is_an_address() -> None:
    assert not [n for n, spec in NAMES.items() if n.startswith("SNP") and spec.treatment is Treatment.PASSED]


def test_less_is_emulated_the_higher_the_category() -> None:
    shares = dict(less_emulation_higher_up(CALLS.values()))
    assert shares[Category.INIT] == 1.0
    assert all(share < 0.2 for category, share in shares.items() if category is not Category.INIT)
    assert shares[Category.LIFECYCLE] == 0


@pytest.mark.parametrize("spec", CALLS.values(), ids=lambda spec: spec.name)
def test_every_row_is_complete(spec: object) -> None:
    assert spec.handler is not None
    assert spec.name in TREATMENTS
    assert spec.length == LAYOUTS[spec.name].length
    assert spec.why
    assert all(check.code in list(Status) for check in spec.checks)


def test_sets_of_names_name_commands() -> None:
    assert set(LAYOUTS) == set(NAMES)
    assert set(NAMES) >= WRITTEN | LENGTH_BACK
    assert "ATTESTATION" in LENGTH_BACK - WRITTEN  # written back, but its page is not asked for


def test_statuses_have_the_numbers_of_the_documents() -> None:
    wanted = {
        0x01: "PLATFORM_STATE",
        0x0C: "ASID_OWNED",
        0x0F: "DFFLUSH",
        0x12: "ACTIVE",
        0x15: "UNSUPPORTED",
    }
    wanted |= {
        0x19: "PAGE_SIZE",
        0x1A: "PAGE_STATE",
        0x1C: "PAGE_OWNER",
        0x20: "RMP_INIT",
        0x27: "INVALID_KEY",
    }
    for number, name in wanted.items():
        assert name in Status(number).name
    assert 0x1E not in list(Status)


# -- layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("INIT", 0x14),
        ("INIT_EX", 0x24),
        ("LAUNCH_START", 0x24),
        ("LAUNCH_SECRET", 0x34),
        ("SEND_START", 0x44),
        ("SNP_INIT_EX", 0x40),
        ("SNP_CONFIG", 0x40),
        ("SNP_LAUNCH_START", 0x30),
        ("SNP_LAUNCH_UPDATE", 0x20),
        ("SNP_LAUNCH_FINISH", 0x40),
        ("SNP_GUEST_REQUEST", 0x18),
    ],
)
def test_buffers_have_the_documented_lengths(name: str, length: int) -> None:
    assert LAYOUTS[name].length == length


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_buffer_reads_what_was_packed(name: str) -> None:
    layout = LAYOUTS[name]
    values = {}
    for number, (field, place) in enumerate(layout.fields.items(), 1):
        value = (0x0101010101010101 * number) & place.allowed & (1 << 8 * place.width) - 1
        values[field] = value & ~(1 << 51) if place.address else value
    buffer = Buffer(layout, layout.pack(**values))
    assert {field: getattr(buffer, field) for field in values} == values
    assert not buffer.strays


def test_reserved_bits_are_found_wherever_they_are() -> None:
    layout = Layout(0x10, "0:8p page 8:4&3 flags")
    for bit in range(128):
        buffer = Buffer(layout, (1 << bit).to_bytes(16, "little"))
        assert buffer.strays is not (bit in (*range(12, 64), 64, 65))


def test_the_c_bit_is_no_part_of_an_address() -> None:
    layout = Layout(8, "0:8p page")
    buffer = Buffer(layout, layout.pack(page=1 << 51 | 0x5000))
    assert buffer.page == 0x5000
    assert not buffer.strays
    with pytest.raises(AttributeError):
        _ = buffer.other
