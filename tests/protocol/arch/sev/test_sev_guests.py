"""Guests that a console launches in one sequence: where one cannot go on, the host's software says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sev_nested_host import Host, rig_of

from protocol.arch.sev.host.driver import Failed
from protocol.arch.sev.structs import PAGE, U32, VMCB_ASID
from protocol.effects import run


def no_page(host: Host, vm: Any) -> None:
    vm.vmcbs[0] += 8


def no_asid(host: Host, vm: Any) -> None:
    host.driver.write(vm.vmcbs[0] + VMCB_ASID, U32.pack(0))


def no_memory(host: Host, vm: Any) -> None:
    """The pages for its messages lie where its host has mapped nothing."""
    vm.window += 16 * PAGE


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_page, "VMRUN raises #GP"),
        (no_asid, "the guest leaves with 0xffffffffffffffff"),
        (no_memory, "the guest faults at 0x15000"),
    ],
    ids=["no page", "no ASID", "no memory"],
)
def test_a_guest_that_cannot_be_asked_is_no_proof_and_can_be_destroyed(
    depth: int, spoil: Callable[[Host, Any], None], said: str
) -> None:
    host = Host(rig_of(depth))
    vm = host.launch()
    spoil(host, vm)
    with pytest.raises(Failed, match=said):
        run(host.guests.attest(vm))
    run(host.guests.destroy(vm))
    assert not host.guests.vms
    assert not host.rig.remains()["gctx"]
