"""Who may ask for what on a link: asks go down only, and never from a role that only listens."""

from __future__ import annotations

import pytest

from protocol.roles import DRIVER, HOSTS, MACHINE, NATS, REQUESTER, ROLES, TENANT, may_ask

ACTORS = (
    "kvm",
    "kvm.0",
    "te",
    "node",
    "node.1",
    "host.0",
    "hosted",
    "machine",
    "machine.0",
    "part",
    "compare",
    "",
)


@pytest.mark.parametrize(
    ("role", "asked"),
    [
        (HOSTS, {"kvm"}),  # its hypervisor and nobody else: an L1 never speaks as Trusted Entity
        (DRIVER, {"node", "node.1", "host.0", "machine", "part", "compare"}),
        *((role, set()) for role in (MACHINE, REQUESTER, NATS, TENANT)),
    ],
)
def test_a_role_may_ask_whom_it_stands_above_and_nobody_else(role: str, asked: set[str]) -> None:
    assert {name for name in ACTORS if may_ask(role)(name)} == asked


def test_every_role_has_a_rule_and_a_stranger_has_none() -> None:
    for role in ROLES:
        assert not may_ask(role)("te")
    with pytest.raises(KeyError):
        may_ask("root")
