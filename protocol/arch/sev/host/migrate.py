"""A legacy SEV guest moves to another machine: SEND_* and RECEIVE_*, as KVM issues them.

Section 6.8 of the fact sheet. A secure host itself cannot be moved; this is the way round for its guests, one
by one, at any depth: the platform below packs each page anew for the peer's. KVM has no call for encrypted
registers, so guests of SEV-ES cannot go, and Linux issues none of SNP's calls for it.

Memory that the guest shares would travel as it is; the guests of a plan that move share none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.arch.sev.host.tables import Tables
from protocol.arch.sev.host.vm import Vm, add_vcpu
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import CERT_LEN, CHAIN_LEN, HEADER_LEN, PAGE, SESSION_LEN
from protocol.effects import Step
from protocol.errors import OperationFailed

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host

_CHAIN = -(-CHAIN_LEN // PAGE)


@dataclass(frozen=True, slots=True)
class Packet:
    """One page on its way: sealed under the keys of the session."""

    page: int
    header: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Luggage:
    """A guest on its way. `certificate` is that of the platform that sends it."""

    policy: int
    certificate: bytes
    session: bytes
    packets: Sequence[Packet]
    pages: int  # of the guest's memory, whether it has used them or not
    vcpus: int


def certificate(host: Host) -> Step[bytes]:
    """What a peer has to know of this platform: its PDH."""
    with _Areas(host, 1 + _CHAIN) as (pdh, *chain):
        yield from host.driver.command(
            "PDH_CERT_EXPORT", pdh=pdh, len=CERT_LEN, chain=chain[0], chain_len=CHAIN_LEN
        )
        return host.driver.read(pdh, CERT_LEN)


def leave(host: Host, number: int, peer: bytes) -> Step[Luggage]:
    """Pack a guest for the platform with certificate `peer`; it is destroyed here like any other.

    Raises OperationFailed, with nothing done, for a guest that cannot travel; Failed if the firmware refuses.
    """
    vm, driver = host.guest(number), host.driver
    if host.kind.encrypted_state:
        raise OperationFailed(f"KVM has no call that moves the registers of {host.kind.name} guests")
    own = yield from certificate(host)
    with _Areas(host, 2) as (pdh, session):
        driver.write(pdh, peer)
        fields = {"handle": vm.handle, "pdh": pdh, "pdh_len": CERT_LEN, "session": session}
        for length, allowed in ((0, (Status.INVALID_LENGTH,)), (SESSION_LEN, (0,))):  # first for its length
            yield from driver.command("SEND_START", allowed, False, session_len=length, **fields)
        policy, sealed = driver.field("SEND_START", "policy"), driver.read(session, SESSION_LEN)
    packets = []
    with _Areas(host, 2) as (header, data):
        place = _place(vm, header, data)
        for page, under in sorted(vm.private.items()):
            yield from driver.command("SEND_UPDATE_DATA", (0,), False, guest=under, **place)
            packets.append(Packet(page, driver.read(header, HEADER_LEN), driver.read(data, PAGE)))
    yield from driver.command("SEND_FINISH", handle=vm.handle)
    return Luggage(policy, own, sealed, packets, vm.pages, len(vm.vmcbs))


def arrive(host: Host, number: int, luggage: Luggage) -> Step[None]:
    """Take in a guest as this host's `number`. Raises Failed where the firmware refuses it."""
    if number in host.guests:
        raise ValueError(f"guest {number} is there already")
    driver, vm = host.driver, Vm(number, luggage.pages, Tables(host.driver))
    with _Areas(host, 2) as (pdh, session):
        driver.write(pdh, luggage.certificate)
        driver.write(session, luggage.session)
        yield from driver.command(
            "RECEIVE_START",
            policy=luggage.policy,
            pdh=pdh,
            pdh_len=CERT_LEN,
            session=session,
            session_len=SESSION_LEN,
        )
        vm.handle = driver.field("RECEIVE_START", "handle")
    vm.asid = yield from host.asids.activate(driver, "ACTIVATE", handle=vm.handle)
    with _Areas(host, 2) as (header, data):
        place = _place(vm, header, data)
        for packet in luggage.packets:
            under = vm.private[packet.page] = host.page()
            driver.write(header, packet.header)
            driver.write(data, packet.data)
            yield from driver.command("RECEIVE_UPDATE_DATA", (0,), False, guest=under, **place)
            vm.tables.map(packet.page * PAGE, under)
    vm.accepted.update(vm.private)
    yield from driver.command("RECEIVE_FINISH", handle=vm.handle)
    host.guests[number] = vm
    for vcpu in range(luggage.vcpus):
        add_vcpu(host, vm, vcpu)
    host.keep("native_vcpu", luggage.vcpus)
    host.keep("native_page", len(vm.private))


def _place(vm: Vm, header: int, data: int) -> dict[str, int]:
    """The fields of a page's command that are those of every page."""
    lengths = {"hdr_len": HEADER_LEN, "trans_len": PAGE, "guest_len": PAGE}
    return {"handle": vm.handle, "hdr": header, "trans": data} | lengths


class _Areas:
    """Pages for a while, in one piece."""

    def __init__(self, host: Host, count: int) -> None:
        self._host = host
        first = host.run_of_pages(count)
        self._pages = [first + n * PAGE for n in range(count)]

    def __enter__(self) -> Iterator[int]:
        return iter(self._pages)

    def __exit__(self, *error: object) -> None:
        self._host.give(self._pages)
