"""Who may ask for what on a link between processes: by the role that the transport vouches for.

A role stands in the certificate of a process, never in a message. Asks go down only: a guest host asks its
hypervisor and nobody else, so an L1 never speaks as Trusted Entity; whoever drives a run asks hosts and
machines what they are to do, and no hypervisor or Trusted Entity for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

HOSTS = "hosts"  # a process with guest hosts: L1 and what is above
MACHINE = "machine"  # a process with a Trusted Entity and L0's hypervisor
DRIVER = "driver"  # who drives a run: a comparison, a load
REQUESTER = "requester"  # a guest host that asks for hosted guests (docs/wire.md); its name is its context id
NATS = "nats"  # a server of the directory: links are not for it
TENANT = "tenant"  # asks a fleet for hosted guests, through those servers; its name is its own prefix
ROLES = (HOSTS, MACHINE, DRIVER, REQUESTER, NATS, TENANT)

# What each may ask of its peer: names of actors, or beginnings of them that end with a dot.
MAY_ASK: Mapping[str, tuple[str, ...]] = {
    HOSTS: ("kvm",),
    MACHINE: (),
    REQUESTER: (),  # links are not for it
    NATS: (),
    TENANT: (),
    DRIVER: ("node", "node.", "host.", "machine", "part", "compare"),
}


def may_ask(role: str) -> Callable[[str], bool]:
    """Tells of an actor's name whether a peer of that role may ask it."""
    names = MAY_ASK[role]
    return lambda target: any(
        target.startswith(name) if name.endswith(".") else target == name for name in names
    )
