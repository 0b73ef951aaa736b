"""ASIDs: four masks of core complexes, and what ACTIVATE, DEACTIVATE and DF_FLUSH make of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.sev.asids import Asids
from protocol.arch.sev.status import Status

CORES = 0b11


def test_a_fresh_platform_has_to_be_flushed_on_every_core() -> None:
    asids = Asids(15, 8, CORES)
    asids.all_dirty()
    assert asids.unready(8, CORES, False) is Status.DFFLUSH_REQUIRED
    asids.wbinvd(0)
    assert asids.flush() is Status.WBINVD_REQUIRED
    assert asids.unready(8, 0b01, False) is Status.SUCCESS
    assert asids.unready(8, CORES, False) is Status.DFFLUSH_REQUIRED
    asids.wbinvd(1)
    assert asids.flush() is Status.SUCCESS
    assert asids.all_clean()


def test_an_asid_that_never_ran_needs_no_flush() -> None:
    asids = Asids(15, 8, CORES)
    asids.bind(3, CORES, running=False)
    assert asids.refusal(3) == Status.ASID_OWNED
    assert not asids.may_run(3, 0)
    asids.release(3)
    assert asids.all_clean()
    asids.bind(3, CORES, running=False)
    asids.finish(3)
    assert asids.may_run(3, 1)
    asids.flushed = CORES
    asids.release(3)
    assert asids.unready(3, CORES, True) is Status.DFFLUSH_REQUIRED
    assert asids.flushed == 0


acts = st.lists(
    st.tuples(st.sampled_from(["bind", "run", "finish", "release", "flush", "wbinvd"]), st.integers(1, 15)),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(acts)
def test_each_complex_is_in_exactly_one_mask(script: list[tuple[str, int]]) -> None:
    asids = Asids(15, 8, CORES)
    asids.all_dirty()
    for act, n in script:
        free = asids.refusal(n) is Status.SUCCESS and asids.unready(n, CORES, n < 8) is Status.SUCCESS
        if act in ("bind", "run") and free:
            asids.bind(n, CORES, act == "run")
        elif act == "finish":
            asids.finish(n)
        elif act == "release":
            asids.release(n)
        elif act == "flush":
            asids.flush()
        elif act == "wbinvd":
            asids.wbinvd(n & 1)
    for masks in zip(asids._dirty, asids._clean, asids._allocated, asids._used, strict=True):
        assert sum(masks) == CORES  # no bit twice, none missing
        assert masks[0] | masks[1] | masks[2] | masks[3] == CORES
