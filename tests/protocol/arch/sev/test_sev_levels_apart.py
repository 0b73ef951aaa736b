"""The same nested life whether every message is answered at once or held: equal counts, nothing left.

A simulated link holds each message and lets them go in seeded order, so that every `yield` of every
emulation really parks while others go on.
"""

from __future__ import annotations

from random import Random

import pytest

from protocol.arch.sev.audit import audit, leaks
from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.host.guests import Guests
from protocol.arch.sev.linked import Server, Who
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.structs import LAYOUTS, PAGE
from protocol.crossing import Crossing, inline
from protocol.effects import Issue, Step
from protocol.errors import RemoteProtocolError
from protocol.nesting.composition import Seat


class InTurn(Random):
    """Always the first thread: each host's life to its end, one after the other."""

    def randrange(self, *_: object) -> int:  # type: ignore[override]
        return 0


def life(rig: Rig, number: int) -> Step[str]:
    """Bring SNP up; an SNP guest, an ES guest; attestation, page state changes, the end; ASIDs are used
    again.
    """
    seat = rig.seats[number]
    level = rig.seen(seat.level)
    place = [8 * MIB]

    def allocate(length: int, align: int) -> int:
        at = -(-place[0] // align) * align
        place[0] = at + -(-length // PAGE) * PAGE
        return at

    hands = Hands(Seat(number, level, seat.cpus, seat.memory_bytes), rig.depth + 1)
    for cpu in seat.cpus:
        for msr, value in ((0xC0010132, 4 * MIB), (0xC0010133, 7 * MIB - 1), (0xC0010010, 0x3880000)):
            yield from level.wrmsr(cpu, msr, value)
    driver = Driver(hands, allocate)
    yield from driver.probe()
    guests = Guests(driver, lambda context: rig.guest_key(number, context))
    for turn in range(8):
        vm = yield from guests.launch("snp", 2, 1, 1, 0)
        if not turn:
            yield from guests.attest(vm)
            yield from guests.convert(vm, 2, "shared")
            yield from guests.convert(vm, 1, "private")
        yield from guests.destroy(vm)
    vm = yield from guests.launch("es", 2, 2, 1, 1)
    yield from guests.attest(vm)
    yield from guests.launch("snp", 2, 1, 1, 0)
    return "lived"


class Apart:
    """Hosts on a rig whose levels live apart, under way."""

    def __init__(self, depth: int, hosts: int, random: Random) -> None:
        self.rig = compose(PROFILES["small"], depth, hosts, apart=True)
        self.crossing = Crossing(random)
        self.threads = [
            self.crossing.start(f"host {n}", life(self.rig, n), self.rig.below(n)) for n in range(hosts)
        ]
        self.crossing.run()

    @property
    def counts(self) -> dict[str, int]:
        return self.rig.ledger.flat()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_orders_of_messages_do_not_change_the_counts(depth: int) -> None:
    expected = Apart(depth, 2, InTurn())
    assert [thread.value for thread in expected.threads] == ["lived", "lived"]
    for seed in range(6):
        apart = Apart(depth, 2, Random(seed))
        assert [(thread.value, thread.error) for thread in apart.threads] == [("lived", None)] * 2
        assert apart.counts == expected.counts, f"seed {seed}"
        assert list(leaks(apart.rig)) == [], f"seed {seed}"


def test_a_server_refuses_what_is_no_operation() -> None:
    rig = compose(PROFILES["small"], 1, 1)
    server = Server(rig.seats[0].level)
    for wrong in (Issue("uvc", (Who(0, 1),)), Issue("psp", ()), Issue("psp", (Who(64, 1), 0, 0))):
        with pytest.raises(RemoteProtocolError):
            server(wrong)


def nothing_below(rig: Rig, host: int) -> bool:
    """No page of this host's is Firmware, Reclaim, Context, a guest's or anything but the hypervisor's on the
    machine; no ASID of its share is bound, and no guest has one.
    """
    return not any(audit(rig)["hosts"][host]["te"].values())


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_a_host_may_die_in_the_middle_of_anything(depth: int) -> None:
    """What is under way below gets its answer first; then the host is swept, and its sibling lives on."""
    for seed in range(20):
        random = Random(seed)
        rig = compose(PROFILES["small"], depth, 2, apart=True)
        crossing = Crossing(random)
        threads = [crossing.start(f"host {n}", life(rig, n), rig.below(n)) for n in range(2)]
        for _ in range(random.randrange(1, 6000 * depth)):
            if crossing.threads:
                crossing.hop()
        crossing.kill(threads[:1], 1)
        crossing.run()
        swept = crossing.start("sweep", rig.kill(0), rig.below(0)[1:])
        crossing.run()
        assert swept.error is None, f"seed {seed}: {swept.error}"
        assert threads[1].value == "lived", f"seed {seed}: {threads[1].error}"
        assert list(leaks(rig)) == [], f"seed {seed}"
        assert nothing_below(rig, 0), f"seed {seed}: {audit(rig)['hosts'][0]}"


def short_life(rig: Rig) -> Step[None]:
    """One ES guest without SNP: each of its commands lends pages below."""
    seat = rig.seats[0]
    place = [8 * MIB]

    def allocate(length: int, align: int) -> int:
        at = -(-place[0] // align) * align
        place[0] = at + -(-length // PAGE) * PAGE
        return at

    hands = Hands(Seat(0, rig.seen(seat.level), seat.cpus, seat.memory_bytes), rig.depth + 1)
    driver = Driver(hands, allocate)
    yield from driver.probe()
    guests = Guests(driver, lambda context: rig.guest_key(0, context))
    vm = yield from guests.launch("es", 2, 2, 1, 1)
    yield from guests.attest(vm)
    yield from guests.destroy(vm)


@pytest.mark.slow
def test_a_host_may_die_at_any_message_of_a_legacy_launch() -> None:
    """Pages that were lent come back, and a guest that was just made does not outlive its owner."""
    hops = 0
    while True:
        hops += 1
        rig = compose(PROFILES["small"], 1, 1, memory_bytes=64 * MIB, apart=True)
        crossing = Crossing(InTurn())
        thread = crossing.start("host", short_life(rig), rig.below(0))
        for _ in range(hops):
            if not thread.done:
                crossing.hop()
        if thread.done:
            break
        crossing.kill([thread], 1)
        crossing.run()
        swept = crossing.start("sweep", rig.kill(0), rig.below(0)[1:])
        crossing.run()
        assert swept.error is None, f"after {hops} messages: {swept.error}"
        assert list(leaks(rig)) == [], f"after {hops} messages"
        assert nothing_below(rig, 0), f"after {hops} messages: {audit(rig)['hosts'][0]}"
    assert hops > 100


def ringing(rig: Rig, number: int, times: int, answered: list[int]) -> Step[None]:
    """A host that asks for nothing but the mailbox."""
    seat = rig.seats[number]
    level = rig.seen(seat.level)
    place = [8 * MIB]

    def allocate(length: int, align: int) -> int:
        at = -(-place[0] // align) * align
        place[0] = at + -(-length // PAGE) * PAGE
        return at

    driver = Driver(Hands(Seat(number, level, seat.cpus, seat.memory_bytes), rig.depth + 1), allocate)
    yield from driver.probe()
    for _ in range(times):
        yield from driver.command("LAUNCH_START", policy=0)
        handle = driver.field("LAUNCH_START", "handle")
        answered.append(number)
        yield from driver.command("DECOMMISSION", handle=handle)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_mailbox_that_everybody_wants_is_shared_fairly(depth: int) -> None:
    """Three hosts, one mailbox: none gets far ahead, and none of them is told that it was busy."""
    hosts, times = 3, 12
    for seed in range(3):
        rig = compose(PROFILES["small"], depth, hosts, memory_bytes=64 * MIB, apart=True)
        crossing = Crossing(Random(seed))
        answered: list[int] = []
        threads = [
            crossing.start(f"host {n}", ringing(rig, n, times, answered), rig.below(n)) for n in range(hosts)
        ]
        crossing.run()
        assert [thread.error for thread in threads] == [None] * hosts
        behind = [answered[: 2 * times].count(n) for n in range(hosts)]
        assert min(behind) >= times // 4, f"seed {seed}: {behind}"
        assert rig.ledger.contention["absorbed_busy"] > 0
        assert list(leaks(rig)) == []


def knocking(rig: Rig, cpu: int, buffer: int) -> Step[tuple[int, int]]:
    """One LAUNCH_START by this CPU: its status, and the handle."""
    level, layout = rig.seen(rig.seats[0].level), LAYOUTS["LAUNCH_START"]
    level.write(buffer, layout.pack(policy=0))
    answer = yield from level.call(rig.seats[0].cpus[cpu], 0x030 << 16, buffer)
    return answer & 0xFFFF, int.from_bytes(level.read(buffer, 4), "little")


def test_two_cpus_of_a_host_that_knock_at_once_are_served_one_after_the_other() -> None:
    """The real mailbox is asked by message meanwhile; neither is told that it was busy."""
    rig = compose(PROFILES["small"], 1, 1, memory_bytes=64 * MIB, apart=True)
    inline(ringing(rig, 0, 0, []), rig.below(0))
    crossing = Crossing(Random(1))
    threads = [
        crossing.start(f"CPU {cpu}", knocking(rig, cpu, (16 + cpu) * MIB), rig.below(0)) for cpu in (0, 1)
    ]
    crossing.run()
    assert sorted(thread.value for thread in threads) == [(0, 1), (0, 2)]
    assert rig.ledger.contention["absorbed_busy"] > 0
    assert list(leaks(rig)) == []


@pytest.mark.slow
def test_which_shadow_makes_room_does_not_depend_on_the_order_of_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At depth 2 L0 keeps shadows for the guests of both hosts on L1; room for few of them shows it."""
    monkeypatch.setattr("protocol.arch.sev.nesting.shadow.SPACES", 2)
    monkeypatch.setattr("protocol.arch.sev.nesting.shadow.LEAST", 1)
    expected = Apart(2, 2, InTurn())
    for seed in range(3):
        assert Apart(2, 2, Random(seed)).counts == expected.counts, f"seed {seed}"
