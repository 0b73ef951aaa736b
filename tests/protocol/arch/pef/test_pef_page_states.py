"""Section 5.3 of the fact sheet, every state against every call, on the ultravisor itself."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.arch.pef import front
from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.cpu import Cpu, gprs
from protocol.arch.pef.crypto import PageKey
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.profiles import PROFILES, Choices
from protocol.arch.pef.status import P2, P3, PARAMETER, RETRY, STATE, SUCCESS, signed
from protocol.arch.pef.tables import PAGE, PAGE_OUT, TRANSIENT, Page, SvmState
from protocol.effects import run
from protocol.ledger import Ledger

LPID, GFN, NORMAL, OTHER = 5, 7, 0x200000, 0x210000

# As the sheet has it: state -> answer and next state of UV_PAGE_IN, UV_PAGE_OUT, UV_PAGE_INVAL while secure.
WANTED = {
    Page.SECURE: ((P2, None), (SUCCESS, Page.PAGEDOUT), (P2, None)),
    Page.PAGEDOUT: ((SUCCESS, Page.SECURE), (PARAMETER, None), (P2, None)),
    Page.HV_SHARING: ((SUCCESS, Page.HV_SHARED), (PARAMETER, None), (P2, None)),
    Page.HV_SHARED: ((SUCCESS, None), (PARAMETER, None), (SUCCESS, Page.HV_SHARED_INV)),
    Page.HV_SHARED_INV: ((SUCCESS, Page.HV_SHARED), (PARAMETER, None), (SUCCESS, None)),
    Page.SHARED: ((SUCCESS, None), (PARAMETER, None), (SUCCESS, Page.SHARED_INV)),
    Page.SHARED_INV: ((SUCCESS, Page.SHARED), (PARAMETER, None), (SUCCESS, None)),
    Page.SHARED_IMPLICIT: ((SUCCESS, None), (PARAMETER, None), (SUCCESS, Page.SHARED_IMPLICIT_INV)),
    Page.SHARED_IMPLICIT_INV: ((SUCCESS, Page.SHARED_IMPLICIT), (PARAMETER, None), (SUCCESS, None)),
    Page.PSEUDO_SHARED: ((SUCCESS, None), (PARAMETER, None), (SUCCESS, Page.PSEUDO_SHARED_INV)),
    Page.PSEUDO_SHARED_INV: ((SUCCESS, Page.PSEUDO_SHARED), (PARAMETER, None), (SUCCESS, None)),
    Page.HV_UNSHARING: ((SUCCESS, None), (PARAMETER, None), (SUCCESS, Page.HV_UNSHARING_INV)),
    Page.HV_UNSHARING_INV: ((SUCCESS, Page.HV_UNSHARING), (PARAMETER, None), (SUCCESS, None)),
    Page.HV_UNSHARED: ((P2, None), (RETRY, None), (P2, None)),
}
BINDS = {page for page, (page_in, _, _) in WANTED.items() if page_in[0] == SUCCESS} - {
    Page.PAGEDOUT,
    Page.HV_UNSHARING,
    Page.HV_UNSHARING_INV,
}


class Bench:
    """An ultravisor with one SVM whose page is in a state of our choice."""

    def __init__(self, page: Page, state: SvmState = SvmState.SECURE, **choices: Any) -> None:
        profile = PROFILES["small"]
        if choices:
            profile = type(profile)("chosen", 192, choices=Choices(**choices))
        self.cpu = Cpu(0)
        self.machine = Machine(profile, 64 << 20, [self.cpu], CALLS, Ledger(), 1)
        self.svm = self.machine.svms[LPID] = Svm(LPID, state)
        self.svm.slots[0] = self.machine.secure.reserve(LPID, 0, 0, 32)
        frame = self.svm.frame(GFN)
        assert frame is not None
        self.frame = frame
        self.machine.secure.write(frame, 0, b"secret")
        self.machine.store(NORMAL, b"normal")
        if page is Page.PAGEDOUT:
            self.svm.key = PageKey(self.machine.random)
            sealed, iv, tag = self.svm.key.seal(b"sealed".ljust(PAGE, b"\0"))
            self.machine.store(NORMAL, sealed)
            self.machine.secure.iv[frame] = memoryview(iv)
            self.machine.secure.tag[frame] = memoryview(tag)
        self.machine.secure.become(frame, page)
        self.machine.secure.bind(frame, OTHER)

    @property
    def page(self) -> Page:
        return self.machine.secure.page(self.frame)

    @property
    def secret(self) -> bytes:
        return self.machine.secure.read(self.frame, 0, 6)

    def call(self, number: int, *arguments: int) -> int:
        gpr = gprs(r3=number)
        gpr[4 : 4 + len(arguments)] = arguments
        out = run(self.machine.call(self.cpu, gpr))
        assert isinstance(out, list)
        return signed(out[3])

    def page_in(self) -> int:
        return self.call(front.PAGE_IN, LPID, NORMAL, GFN * PAGE, 0, 16)

    def page_out(self) -> int:
        return self.call(front.PAGE_OUT, LPID, NORMAL, GFN * PAGE, 0, 16)

    def inval(self) -> int:
        return self.call(front.PAGE_INVAL, LPID, GFN * PAGE, 16)


def test_the_table_has_every_state() -> None:
    assert set(WANTED) == set(Page) and len(Page) == 14 and len(TRANSIENT) == 6
    assert set(PAGE_OUT) == set(Page) - {Page.SECURE}


@pytest.mark.parametrize("page", Page)
def test_page_in_by_state(page: Page) -> None:
    bench = Bench(page)
    answer, then = WANTED[page][0]
    assert (bench.page_in(), bench.page) == (answer, page if then is None else then)
    bound = bench.machine.secure.normal_of(bench.frame)
    assert bound == (NORMAL if page in BINDS else OTHER)
    assert bench.secret == (b"sealed" if page is Page.PAGEDOUT else b"secret")


@pytest.mark.parametrize("page", Page)
def test_page_out_by_state(page: Page) -> None:
    bench = Bench(page)
    answer, then = WANTED[page][1]
    before = bench.machine.load(NORMAL, 6)
    assert (bench.page_out(), bench.page) == (answer, page if then is None else then)
    assert (bench.machine.load(NORMAL, 6) != before) == (page is Page.SECURE)
    assert bench.secret == (bytes(6) if page is Page.SECURE else b"secret")


@pytest.mark.parametrize("page", Page)
def test_page_inval_by_state(page: Page) -> None:
    bench = Bench(page)
    answer, then = WANTED[page][2]
    assert (bench.inval(), bench.page) == (answer, page if then is None else then)
    assert bench.inval() == (answer if then is None else SUCCESS)


@pytest.mark.parametrize("page", [Page.SECURE, Page.HV_UNSHARED])
def test_while_the_vm_is_transient_a_page_in_copies(page: Page) -> None:
    bench = Bench(page, SvmState.ACTIVE)
    assert (bench.page_in(), bench.page, bench.secret) == (SUCCESS, page, b"normal")


@pytest.mark.parametrize("page", Page)
def test_in_abort_nothing_moves(page: Page) -> None:
    bench = Bench(page, SvmState.ABORT)
    assert (bench.page_in(), bench.page_out(), bench.inval()) == (STATE, SUCCESS, STATE)
    assert (bench.page, bench.secret) == (page, b"secret")
    if page is not Page.PAGEDOUT:
        assert bench.machine.load(NORMAL, 6) == b"normal"


def test_a_wrong_tag_is_the_third_parameters() -> None:
    bench = Bench(Page.PAGEDOUT)
    bench.machine.store(NORMAL + PAGE - 1, b"!")
    assert (bench.page_in(), bench.page) == (P3, Page.PAGEDOUT)


def test_the_documentation_lets_a_page_out_of_a_shared_page_succeed() -> None:
    for page in (Page.SHARED, Page.SHARED_INV):
        bench = Bench(page, page_out_shared="documentation")
        assert (bench.page_out(), bench.page) == (SUCCESS, page)
        assert bench.machine.load(NORMAL, 6) == b"normal"
    assert Bench(Page.SHARED_IMPLICIT, page_out_shared="documentation").page_out() == PARAMETER


@pytest.mark.parametrize("page", Page)
def test_nothing_stays_of_a_slot_that_goes(page: Page) -> None:
    bench = Bench(page)
    assert bench.call(front.UNREGISTER_MEM_SLOT, LPID, 0) == SUCCESS
    secure = bench.machine.secure
    assert secure.free_units == secure.units
    assert bench.secret == bytes(6) and not secure.owner.any() and not secure.tag.any()


def test_termination_frees_everything() -> None:
    bench = Bench(Page.SHARED)
    assert bench.call(front.REGISTER_MEM_SLOT, LPID, 64 << 20, 4 << 20, 0, 9) == SUCCESS
    assert bench.call(front.SVM_TERMINATE, LPID) == SUCCESS
    assert not bench.machine.svms and bench.machine.secure.free_units == bench.machine.secure.units
    assert bench.call(front.SVM_TERMINATE, LPID) == PARAMETER
