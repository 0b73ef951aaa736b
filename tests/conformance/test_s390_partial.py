"""Calls that are done in part: condition code 3, at every depth. Sections 2.1 and 7.7 of the fact sheet.

Sourced is what a host sees: progress was made, and the same block is issued once more. Which calls are done
so, and after how much, is a guess of the profile `partial`: eight pages of work at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from s390_blocks import INV_STATE, MIB, PARTIAL, Reply, header, uvcb
from s390_field import AddressSpace, Host
from s390_guest import FREE, PAGE, SecureGuest, boot_guest

PIECE = 8  # pages
Create = dict[str, int]


@pytest.fixture
def host(s390: Callable[..., Host]) -> Host:
    made = s390(profile="partial", cpus=2)
    made.init()
    made.cpu(1, running=True)
    return made


@pytest.fixture
def plan(host: Host) -> Create:
    return host.plan_config()


def create(host: Host, plan: Create, cpu: int = 0) -> Reply:
    """One issue of Create Secure Configuration."""
    return host.uvc(uvcb("create_config", **plan), cpu)


def pieces(host: Host, plan: Create) -> int:
    return -(-len(host.donated_by(plan)) // PIECE)


def test_a_creation_takes_as_many_issues_as_its_donation_has_pieces(host: Host, plan: Create) -> None:
    for _ in range(pieces(host, plan) - 1):
        assert create(host, plan).cc == PARTIAL
    assert create(host, plan).done().handle


def test_until_the_last_piece_the_block_is_as_it_was_and_nothing_is_donated(host: Host, plan: Create) -> None:
    before = host.books()
    reply = create(host, plan)
    after = host.books()
    assert (reply.cc, reply.block) == (PARTIAL, uvcb("create_config", **plan))
    assert after["te"] == before["te"]
    assert after["donated_pages"] == before["donated_pages"]
    for page in host.donated_by(plan):
        host.write(page, b"still mine")


def test_other_calls_between_the_pieces_change_nothing(host: Host, plan: Create) -> None:
    wanted = pieces(host, plan)
    issues = 1
    while create(host, plan).cc == PARTIAL:
        issues += 1
        host.query()
        host.uvc(header(0x0900, 8, 8)).refused()
    assert issues == wanted


def test_what_one_cpu_began_another_begins_anew(host: Host, plan: Create) -> None:
    for _ in range(pieces(host, plan) - 1):
        assert create(host, plan, cpu=0).cc == PARTIAL
    assert create(host, plan, cpu=1).cc == PARTIAL
    create(host, plan, cpu=0).done()
    create(host, plan, cpu=1).refused()  # the address space of its guest is taken now


def test_a_host_may_go_on_to_another_creation(host: Host, plan: Create) -> None:
    """What the level below keeps for the first is given back when the second begins."""
    assert create(host, plan).cc == PARTIAL
    other = host.plan_config()
    while (reply := create(host, other)).cc == PARTIAL:
        pass
    reply.done()
    while (reply := create(host, plan)).cc == PARTIAL:
        pass
    assert reply.done().handle != 0


def test_what_no_longer_fits_is_refused_on_the_way(host: Host, plan: Create) -> None:
    """The checks come again with each piece: what was good may be so no more."""
    assert create(host, plan).cc == PARTIAL
    thief = dict(host.plan_config(), base=plan["base"])
    host.call("create_config", 1, **thief).done()
    create(host, plan).refused(0x0108)


def test_a_configuration_lives_until_the_last_piece_of_its_end(host: Host) -> None:
    guest = SecureGuest.create(host, cpus=0)
    end = uvcb("destroy_config", handle=guest.handle)
    for number in range(pieces(host, guest.plan) - 1):
        assert host.uvc(end).cc == PARTIAL
        cpu = host.call("create_cpu", **host.plan_cpu(guest.handle, number)).done()
        host.uvc(end).refused(INV_STATE)  # and it has a CPU now
        host.call("destroy_cpu", handle=cpu.handle).done()
    host.uvc(end).done()
    assert host.books()["te"]["configs"] == 0


def test_destroy_fast_is_done_at_once(host: Host) -> None:
    guest = SecureGuest.create(host, cpus=0)
    host.uvc(uvcb("destroy_config_fast", handle=guest.handle)).done()


def test_many_shared_pages_become_private_in_pieces(host: Host) -> None:
    guest = boot_guest(host)
    shared = [FREE + number * PAGE for number in range(PIECE + 1)]
    for gaddr in shared:
        guest.secure_page(gaddr)
        guest.share(gaddr).done()
    guest.stop_all()
    unshare = uvcb("unshare_all", handle=guest.handle)
    assert host.uvc(unshare).cc == PARTIAL
    assert host.books()["te"]["shared_pages"] == len(shared)
    host.uvc(unshare).done()
    assert host.books()["te"]["shared_pages"] == 0


@pytest.mark.parametrize("how", ["load-normal", "load-clear", "modified-clear"])
def test_a_reset_between_the_pieces_leaves_nothing(host: Host, plan: Create, how: str) -> None:
    """A kept buffer would be missing at the end: the fixture audits every host."""
    assert create(host, plan).cc == PARTIAL
    host.reset(how)
    host.forget()
    host.init()
    boot_guest(host)


def test_a_death_between_the_pieces_leaves_nothing(host: Host, plan: Create) -> None:
    assert create(host, plan).cc == PARTIAL
    host.ok("kill")


def test_a_whole_life_in_pieces(host: Host) -> None:
    guest = boot_guest(host, mib=4, cpus=2)
    guest.stop_all()
    guest.destroy()
    assert host.books()["te"]["configs"] == 0
    assert isinstance(guest.space, AddressSpace) and guest.plan["len"] == 4 * MIB
