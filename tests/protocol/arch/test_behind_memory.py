"""A host's own load or store behind the end of its memory is its architecture's fault, at every depth."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.arch import architectures, load
from protocol.effects import Fault
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes

MIB = 1 << 20
ENDLESS = 1 << 60


@pytest.fixture(params=[0, 1, 2])
def depth(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(params=architectures())
def level(request: pytest.FixtureRequest, depth: int) -> Any:
    arch: Any = load(request.param)
    memory = max(128, arch.profiles["small"].host_least_mib()[0]) * MIB
    return arch.comparison.compose(Sizes("small", depth, 1, memory, 2, 1), Ledger()).seats[0].level


@pytest.mark.parametrize("inside", [0, 4])
def test_a_load_and_a_store_are_refused(level: Any, inside: int) -> None:
    address = level.size - inside
    for fault in (level.read(address, 8), level.write(address, b"unstored")):
        assert isinstance(fault, Fault), fault
        assert fault.address == level.size
    assert level.write(address, b"unstored").write


def test_of_a_store_that_leaves_memory_nothing_is_done(level: Any) -> None:
    level.write(level.size - 8, b"kept for")
    assert isinstance(level.write(level.size - 4, b"somebody"), Fault)
    assert level.read(level.size - 8, 8) == b"kept for"


@pytest.mark.parametrize("level", ["tdx"], indirect=True)
def test_a_whole_line_is_refused_too(level: Any) -> None:
    """MOVDIR64B: no other architecture here has a store of its own for that."""
    fault = level.direct_store(level.size, bytes(64))
    assert isinstance(fault, Fault)
    assert (fault.address, fault.write) == (level.size, True)


@pytest.mark.parametrize("operation", ["read", "peek"])
def test_an_endless_load_ends_at_once(level: Any, operation: str) -> None:
    """A guest host in a process of its own may ask for it (`actors.remote_memory`)."""
    assert isinstance(getattr(level, operation)(0, ENDLESS), Fault)
