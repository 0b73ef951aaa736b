"""A legacy guest travels from one emulated machine to another, at any depth of either host."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.host.driver import Failed
from protocol.arch.sev.host.kinds import KINDS
from protocol.arch.sev.host.migrate import Luggage, arrive, certificate, leave
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.structs import PAGE
from protocol.effects import run
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

IMAGE = derive(1, "guest image", 3 * PAGE)
BEHIND = FIRST_PAGES + 3
SAID = b"what the guest knew"


def machine(depth: int, seed: int, kind: str = "sev") -> tuple[Rig, Host]:
    profile = PROFILES["small"].of_kind(kind)
    rig = compose(profile, depth, 1, memory_bytes=32 * MIB, cpus=2, seed=seed)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(0), depth=depth, image=IMAGE, kind=KINDS[kind])
    run(host.perform(op.BootHost()))
    return rig, host


def guest_that_knows(host: Host, number: int = 0) -> None:
    for operation in (
        op.Create(number, 1, 2),
        op.Load(number),
        op.Start(number),
        op.Touch(number, 1, op.Pages(BEHIND, 6, 6, seed=3)),
        op.Write(number, 0, BEHIND + 2, SAID.ljust(32, b"."), at=16),
    ):
        run(host.perform(operation))


def moved(source: Host, target: Host, number: int = 0) -> Luggage:
    luggage = run(leave(source, number, run(certificate(target))))
    run(arrive(target, number + 5, luggage))
    run(source.perform(op.Destroy(number)))
    return luggage


@pytest.mark.parametrize(
    "depths", [(0, 0), (1, 1), pytest.param((1, 2), marks=pytest.mark.slow), (0, 1), (1, 0)]
)
def test_what_the_guest_knew_it_knows_on_the_other_machine(depths: tuple[int, int]) -> None:
    (here, source), (there, target) = machine(depths[0], 1), machine(depths[1], 2)
    guest_that_knows(source)
    luggage = moved(source, target)
    assert len(luggage.packets) == 3 + 6
    assert not any(SAID in packet.data for packet in luggage.packets), "it travels encrypted"
    run(target.perform(op.Read(5, 1, BEHIND + 2, 32, 16)))
    assert target.heard == SAID.ljust(32, b".")
    run(target.perform(op.Exits(5, 1, "wait", "kernel", 2)))
    run(target.perform(op.Destroy(5)))
    for rig in (here, there):
        assert not any(rig.remains().values())
        assert rig.leaks() == []


def test_it_takes_the_calls_of_the_fact_sheet() -> None:
    """n pages: n + 3 at the source, counted once for the length, and two to end it; n + 3 at the target."""
    (here, source), (there, target) = machine(0, 1), machine(0, 2)
    guest_that_knows(source)
    peer = run(certificate(target))
    here.ledger.phase, there.ledger.phase = "leave", "arrive"
    luggage = run(leave(source, 0, peer))
    run(arrive(target, 0, luggage))
    pages = len(luggage.packets)
    assert here.ledger.phases()["leave"]["te_issued"] == pages + 3 + 1  # and its own certificate
    assert there.ledger.phases()["arrive"]["te_issued"] == pages + 3


def test_every_frame_comes_back_on_both_sides() -> None:
    (_, source), (_, target) = machine(1, 1), machine(1, 2)
    free = source.pool.free, target.pool.free
    guest_that_knows(source)
    moved(source, target)
    run(target.perform(op.Destroy(5)))
    assert (source.pool.free, target.pool.free) == free


@pytest.mark.parametrize("depth", [0, 1])
def test_luggage_opens_at_its_destination_alone_and_only_whole(depth: int) -> None:
    (_, source), (_, target), (_, other) = (machine(depth, seed) for seed in (1, 2, 3))
    guest_that_knows(source)
    luggage = run(leave(source, 0, run(certificate(target))))
    with pytest.raises(Failed, match="RECEIVE_START"):
        run(arrive(other, 0, luggage))
    first, *rest = luggage.packets
    torn = replace(first, data=bytes([first.data[0] ^ 1]) + first.data[1:])
    with pytest.raises(Failed, match="RECEIVE_UPDATE_DATA"):
        run(arrive(target, 0, replace(luggage, packets=[torn, *rest])))


def test_a_guest_does_not_take_the_place_of_one_that_is_there() -> None:
    (_, source), (_, target) = machine(0, 1), machine(0, 2)
    for host in (source, target):
        guest_that_knows(host)
    luggage = run(leave(source, 0, run(certificate(target))))
    with pytest.raises(ValueError, match="guest 0 is there already"):
        run(arrive(target, 0, luggage))
    run(target.perform(op.Read(0, 1, BEHIND + 2, 32, 16)))
    run(arrive(target, 1, luggage))


def test_guests_with_encrypted_registers_stay_where_they_are() -> None:
    _, source = machine(0, 1, "sev-es")
    guest_that_knows(source)
    with pytest.raises(OperationFailed, match="no call that moves the registers"):
        run(leave(source, 0, b""))
    run(source.perform(op.Destroy(0)))
