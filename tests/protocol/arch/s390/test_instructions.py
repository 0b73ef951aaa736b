"""What a host is shown of a guest's instructions: the normalised text of section 5.4."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.s390 import instructions as text
from protocol.arch.s390.guest import Diag, Sclp, Sigp

# Sixteen values that are not alike, from one.
gprs = st.integers(1, (1 << 64) - 1).map(
    lambda seed: [seed * (which + 1) & (1 << 64) - 1 for which in range(16)]
)
register = st.integers(0, 15)


@given(st.sampled_from([0x44, 0x9C, 0x500, 0x288, 0x308, 0x8, 0x10]), register, register, gprs)
def test_a_diagnose_of_a_secure_guest_always_looks_the_same(
    code: int, r1: int, r3: int, values: list[int]
) -> None:
    if code in text.PAIRED_DIAGS:
        r1 &= ~1
    shown = text.diag(Diag(code, r1, r3), values)
    assert (shown.ipa, shown.ipb) == (0x8302, 0x5000_0000)
    assert shown.code == (0x6C if code in (0x44, 0x9C, 0x308) else 0x68)
    assert shown.gprs[5] == code
    assert not any(shown.gprs[6:])


@given(register, register, gprs)
def test_only_registers_that_the_instruction_uses_are_shown(r1: int, r3: int, values: list[int]) -> None:
    pair = r1 & ~1
    assert text.diag(Diag(0x44, r1, r3), values).gprs[:5] == (0, 0, 0, 0, 0)
    assert text.diag(Diag(0x9C, r1, r3), values).gprs[:5] == (values[r1], 0, 0, 0, 0)
    assert text.diag(Diag(0x500, r1, r3), values).gprs[:5] == (0, *values[1:5])
    for code in (0x288, 0x308):
        shown = text.diag(Diag(code, pair, r3), values).gprs
        assert shown[:5] == (values[pair], values[pair + 1], values[r3], 0, 0)


@given(register, register, gprs)
def test_a_normal_guest_shows_its_own_text_and_all_registers(r1: int, r3: int, values: list[int]) -> None:
    shown = text.plain_diag(Diag(0x500, r1, r3), values)
    assert (shown.code, shown.ipa, shown.ipb) == (0x04, 0x8300 | r1 << 4 | r3, 0x500 << 16)
    assert shown.gprs == tuple(values)


def test_each_exit_has_its_operation_code() -> None:
    assert text.sigp(Sigp(5, 3, 9)).ipa >> 8 == 0xAE
    assert text.spx().ipa == 0xB210
    assert text.sclp(Sclp(0x20001, 0x8000)).ipa == 0xB220
    assert text.unshare().ipa == 0xB9A4
    assert {text.sigp(Sigp(5, 3)).code, text.spx().code, text.sclp(Sclp(1, 0)).code, text.unshare().code} == {
        0x6C
    }


@given(st.integers(0, 0x3FFFF).map(lambda block: block * 0x2000), st.integers(0, (1 << 64) - 1))
def test_prefixing_swaps_two_areas(prefix: int, address: int) -> None:
    assert text.prefixed(prefix, text.prefixed(prefix, address)) == address
    assert text.prefixed(0, address) == address


def test_every_intercept_has_a_reason_for_the_ledger() -> None:
    reasons = [text.Intercept(code).reason for code in range(0x100)]
    assert all(reason and " " not in reason for reason in reasons)
    assert len(set(reasons)) == 0x100
