"""Where CPUs and memory come from: L0's pool, the requester's cores and huge pages, deposited pages."""

from __future__ import annotations

import pytest

from protocol.hosting.errors import Refusal
from protocol.hosting.machine import Spec
from protocol.hosting.profiles import NITRO_REGIONS, PROFILES, Deposited, Nitro, Topology, pool

NITRO = {"profile": "nitro"}


def a_spec(vcpus: int = 2, memory_mib: int = 64) -> Spec:
    return Spec(bytes(32), vcpus, memory_mib)


@pytest.mark.parametrize(
    ("vcpus", "memory_mib", "image", "said"),
    [
        (1, 63, 0, "259"),  # memory is looked at before CPUs: the driver's order
        (1, 62, 0, "268"),  # the minimum only at the start, behind the CPUs of the pool
        (15, 62, 0, "272"),
        (1, 64, 0, "269"),
        (3, 64, 0, "269"),
        (2, 1 << 20, 0, "27:"),
        (2, 64, 17 << 20, "1/4"),
    ],
)
def test_what_nitro_refuses_and_in_which_order(vcpus, memory_mib, image, said):
    enclaves = Nitro(Topology(cores=8, threads=2))
    with pytest.raises(Refusal, match=said):
        enclaves.take(b"c", a_spec(vcpus, memory_mib), image)
    assert enclaves.free_cores() == tuple(range(1, 8)), "a refusal takes nothing"
    assert enclaves.free_pages() == {1024: 4, 2: 512}


def test_too_many_regions():
    enclaves = Nitro(Topology(pages={2: 4096}))
    with pytest.raises(Refusal, match="265"):
        enclaves.take(b"c", a_spec(memory_mib=2 * NITRO_REGIONS + 2), 0)


def test_four_children_and_no_more_then_one_is_given_back():
    enclaves = Nitro(Topology(cores=16))
    for n in range(4):
        enclaves.take(bytes([n]), a_spec(), 0)
    with pytest.raises(Refusal) as refusal:
        enclaves.take(b"5", a_spec(), 0)
    assert (refusal.value.code.name, refusal.value.detail["limit"]) == ("QUOTA", 4)
    enclaves.give_back(bytes([2]))
    assert enclaves.take(b"5", a_spec(), 0).allotment["cores"] == [3], "the same core again"


def test_the_charge_is_what_was_granted_not_what_was_asked():
    enclaves = Nitro(Topology(pages={1024: 2}))
    assert enclaves.take(b"c", a_spec(memory_mib=256), 0).memory_mib == 1024
    assert enclaves.body()["pages_1024_mib"] == {
        "limit": 2,
        "charged": 1,
        "free": 1,
        "unit": "1024 MiB page",
        "requested": 1,
    }


def test_core_zero_is_never_given_away():
    enclaves = Nitro(Topology(cores=2, threads=2))
    assert enclaves.take(b"c", a_spec(), 0).allotment["cores"] == [1]
    with pytest.raises(Refusal, match="272"):
        enclaves.take(b"d", a_spec(), 0)


def test_quota_shows_requested_and_charged(small_world, join):
    world = small_world(limits={"profile": "nitro", "topology": Topology(pages={1024: 2})})
    client = join(world, 3)
    started = client.start(memory_mib=256)
    assert started["charged"] == {"vcpus": 2, "memory_mib": 1024}
    quota = client.ask("quota.get")
    assert (quota["memory_mib"]["requested"], quota["memory_mib"]["charged"]) == (256, 1024)
    assert quota["cores"]["charged"] == 1
    client.ask("destroy", child=started["child"])
    assert client.ask("quota.get")["cores"]["charged"] == 0


def test_an_enclave_host_is_told_what_it_can_really_have(small_world, join):
    client = join(small_world(limits=NITRO), 3)
    most = {"children": 4, "vcpus": 14, "memory_mib": 4 * 1024 + 512 * 2}
    limits = client.ask("hello", versions=[1])["limits"]
    assert {name: limits[name] for name in most} == most, "not the bounds of the other profiles"
    client.start(memory_mib=64)
    quota = client.ask("quota.get")
    assert {name: quota[name]["free"] for name in most} == {"children": 3, "vcpus": 12, "memory_mib": 5056}


def test_a_start_that_fails_gives_the_cores_back(small_world, join, spec, no):
    from protocol.hosting.machine import LoadGuest

    world = small_world(limits=NITRO)
    client = join(world, 3)
    world.machine.fail[LoadGuest] = [no]
    client.refused("start", spec=spec())
    assert client.ask("quota.get")["cores"]["charged"] == 0


def test_pages_are_deposited_and_the_start_goes_on_with_the_same_key(small_world, join, spec):
    world = small_world(limits={"profile": "l1vh"})
    client = join(world, 3)
    key = b"\0\0\0\1" + b"k" * 12
    error = client.refused("start", key, spec=spec())
    needed = Deposited.needed(a_spec())
    assert (error["name"], error["detail"], error["retryable"]) == ("NEED_MEMORY", {"pages": needed}, True)
    assert client.ask("memory.deposit", pages=needed)["free"] == needed
    child = client.start(key)["child"]
    row = client.ask("quota.get")["donated_pages"]
    assert (row["charged"], row["requested"], row["free"]) == (needed, needed // 2, 0), "twice over"
    assert client.refused("memory.deposit", pages=1, withdraw=True)["name"] == "QUOTA"
    client.ask("destroy", child=child)
    assert client.ask("memory.deposit", pages=needed, withdraw=True)["limit"] == 0


def test_what_a_former_life_gave_away_is_put_back():
    for name in PROFILES:
        first, second = (pool(name, 1, Topology()) for _ in range(2))
        if isinstance(first, Deposited) and isinstance(second, Deposited):
            first.deposit(1000)
            second.deposit(1000)
        share = first.take(b"c", a_spec(), 0)
        second.put_back(b"c", share.allotment)
        assert second.body() == first.body()
        second.give_back(b"c")
        first.give_back(b"c")
        assert second.body() == first.body()
