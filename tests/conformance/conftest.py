"""Fixtures of the conformance suite: a host at every depth, and the audit after every test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nestbed.testing import MakeHost

# The helpers of this folder are plain modules beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from driver import Keyboard
from pef_field import pef  # noqa: F401 - the fixture of the POWER tests
from s390_field import Host
from sev_field import legacy, sev, sev_depth, snp  # noqa: F401 - fixtures of the AMD tests

DEPTHS = (0, 1, 2)
Machine = Callable[..., Host]


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """At which depths a test runs is said by the fixtures here: some modules ask the deepest host slowly."""
    metafunc.definition.add_marker(pytest.mark.nestbed_depths())


@pytest.fixture(params=DEPTHS, ids=[f"depth{depth}" for depth in DEPTHS])
def depth(request: pytest.FixtureRequest) -> int:
    """How many hypervisors lie below the host at the keyboard."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def s390(secure_host: MakeHost, depth: int) -> Machine:
    """Make s390 hosts with options of the console; after the test no console may have leaked anything."""

    def make(**options: object) -> Host:
        return Host(Keyboard(secure_host("s390", depth, **options).keyboard, depth))

    return make


@pytest.fixture
def raw(s390: Machine) -> Host:
    """A host as it comes up: the Ultravisor is not initialised."""
    return s390()


@pytest.fixture
def host(raw: Host) -> Host:
    """A host whose Ultravisor is initialised."""
    raw.init()
    return raw


# -- TDX -----------------------------------------------------------------------

TDX_DEPTHS = (0, 1, 2)


@pytest.fixture(params=TDX_DEPTHS, ids=[f"depth{depth}" for depth in TDX_DEPTHS])
def tdx(secure_host: MakeHost, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make TDX hosts with options of the console; after the test no console may have leaked anything."""
    from tdx_field import TdxHost

    def make(**options: object) -> TdxHost:
        return TdxHost(Keyboard(secure_host("tdx", request.param, **options).keyboard, request.param))

    return make


@pytest.fixture
def tdx_raw(tdx: Callable[..., Any]) -> Any:
    """A TDX host as it comes up: SYSINIT_PENDING."""
    return tdx()


@pytest.fixture
def tdx_host(tdx_raw: Any) -> Any:
    """A TDX host whose module is READY, with two GiBs of TDMRs."""
    return tdx_raw.boot()
