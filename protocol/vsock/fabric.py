"""The emulated fabric: who reaches whom, by the rules of the real one.

The source context id of a packet is what the sender's device says, never what the sender writes: a packet
with another one is dropped and counted. A guest reaches its host (2); a sibling only where both are in one
group, as vhost-device-vsock has it; anybody else is silence, and the connection times out.

A guest host with guests of its own has two transports: context ids that its own guests have go to them, all
others fall through to the host (the sysctl g2h_fallback). So hosted children have context ids from a range
that a guest host does not give to its own.
"""

from __future__ import annotations

from collections import Counter

from protocol.vsock.address import CID_ANY, CID_FIRST_GUEST, CID_HOST
from protocol.vsock.endpoint import Endpoint
from protocol.vsock.packet import Packet


class Fabric:
    """The VSOCK of one host (context id 2) and its guests."""

    def __init__(self) -> None:
        self.host = Endpoint(CID_HOST)
        self.dropped: Counter[str] = Counter()
        self._guests: dict[int, Endpoint] = {}
        self._groups: dict[int, frozenset[str]] = {}
        self._inner: dict[int, Fabric] = {}

    def add(self, cid: int, groups: frozenset[str] = frozenset(), privileged: bool = True) -> Endpoint:
        """A guest with context id `cid`. Raises ValueError: not a guest's, or taken (allocate, then use)."""
        if not CID_FIRST_GUEST <= cid < CID_ANY:
            raise ValueError(f"{cid} is no context id of a guest: {CID_FIRST_GUEST} to {CID_ANY - 1}")
        if cid in self._guests:
            raise ValueError(f"context id {cid} is taken")
        made = self._guests[cid] = Endpoint(cid, privileged)
        self._groups[cid] = groups
        return made

    def remove(self, cid: int) -> None:
        """The guest is gone: whoever was connected to it is reset."""
        self._guests.pop(cid).transport_reset()
        self._groups.pop(cid)
        self._inner.pop(cid, None)
        for endpoint in (self.host, *self._guests.values()):
            endpoint.peer_gone(cid)

    def nest(self, cid: int, inner: Fabric) -> None:
        """Guest `cid` is a host, too: `inner` is the fabric of its own guests."""
        self._inner[cid] = inner

    def reach(self, source: int, target: int) -> str:
        """Where a connection from guest `source` to `target` goes: own, host, sibling, or nowhere ("")."""
        if target == CID_HOST:
            return "host"
        inner = self._inner.get(source)
        if inner is not None and target in inner:
            return "own"
        if target in self._guests and self._groups[source] & self._groups[target]:
            return "sibling"
        return ""

    def socket(self, source: int, target: int) -> Endpoint:
        """The endpoint from which guest `source` connects to `target`: its own as a guest, or as a host."""
        own = self.reach(source, target) == "own"
        return self._inner[source].host if own else self._guests[source]

    def __contains__(self, cid: int) -> bool:
        return cid in self._guests

    def pump(self) -> int:
        """Move packets until none is left; return how many arrived."""
        moved = 0
        while True:
            waiting = [(at, packet) for at in (self.host, *self._guests.values()) for packet in _drain(at)]
            if not waiting:
                return moved
            for at, packet in waiting:
                moved += self._move(at, packet)

    def _move(self, sender: Endpoint, packet: Packet) -> bool:
        if packet.src_cid != sender.cid:
            self.dropped["forged"] += 1
            return False
        if sender is self.host:
            target = self._guests.get(packet.dst_cid)
            if target is None:
                self.dropped["no guest"] += 1
                return False
            target.arrived(packet)
            return True
        where = self.reach(sender.cid, packet.dst_cid)
        if where == "host":
            self.host.arrived(packet)
        elif where == "sibling":
            self._guests[packet.dst_cid].arrived(packet)
        else:
            self.dropped["not reachable"] += 1
            return False
        return True

    def tick(self, now_ms: int) -> None:
        for endpoint in (self.host, *self._guests.values()):
            endpoint.tick(now_ms)


def _drain(endpoint: Endpoint) -> list[Packet]:
    packets = list(endpoint.out)
    endpoint.out.clear()
    return packets
