"""What a guest's owner gets of it by way of its host: dumps, evidence, a store with its secrets in it.

At every depth, and opened with the keys that the owner alone has.
"""

from __future__ import annotations

from collections import Counter

import msgpack
import pytest
from host_bench import SEED, Bench, Size, family, image_of

from protocol.arch.s390.evidence import attestation, secrets
from protocol.arch.s390.evidence import dump as form
from protocol.arch.s390.host import papers
from protocol.arch.s390.host.dump import Dump, dump, unpack
from protocol.arch.s390.host.guests import GuestFailed
from protocol.arch.s390.host.pages import swap_out
from protocol.arch.s390.image import Component, build, host_key
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.memory import plaintext
from protocol.arch.s390.profiles import MAX_RETRIEVABLE, PROFILES
from protocol.effects import run
from protocol.errors import TeRefused
from protocol.ledger import Key
from protocol.plan.operations import AddSecret, Attest, Create, Destroy, Load, Pages, Start, Swap, Touch
from protocol.plan.operations import Dump as DumpIt

PAGE = 4096
SIZE = Size(2, 3, 6, 2, 2)


@pytest.fixture(params=[0, 1, 2])
def bench(request: pytest.FixtureRequest) -> Bench:
    made = Bench(request.param, SIZE)
    made.boot()
    made.bring_up()
    return made


def machine(bench: Bench) -> Machine:
    return bench.rig.machines[0]


def memory(bench: Bench) -> dict[int, bytes]:
    """What the guest has in its pages, as the machine alone can see."""
    uv = machine(bench)
    (config,) = uv.configs.values()
    return {page: plaintext(uv, int(frame) - 1) for page, frame in enumerate(config.resident) if frame}


def dumped(bench: Bench) -> tuple[Dump, dict[int, bytes]]:
    pages: dict[int, bytes] = {}
    made = run(dump(bench.host, bench.host.guest(0), pages.__setitem__))
    return made, pages


def test_a_dump_opens_to_the_guests_memory_with_the_owners_key(bench: Bench) -> None:
    inside = memory(bench)
    shared = set(SIZE.share.numbers().tolist())
    whole, pages = dumped(bench)
    cck = image_of(SIZE.image).cck
    opened = form.open_dump(cck, whole.completion, whole.cpus, whole.storage_state, pages)
    assert opened.length == SIZE.mib << 20
    assert {page: opened.read(page * PAGE, PAGE) for page in inside} == inside
    assert not any(data.strip(b"\0") for page, data in opened.pages.items() if page not in inside)
    assert len(opened.cpus) == SIZE.vcpus
    for page in inside:
        assert (pages[page] == inside[page]) == (page in shared), "the host has ciphertext of private pages"
    with pytest.raises(form.DumpError):
        form.open_dump(bytes(32), whole.completion, whole.cpus, whole.storage_state, pages)


def test_a_dump_is_the_calls_of_row_11(bench: Bench) -> None:
    """1 + V + 2R + M + 1, R without the pages that the guest shares: those the host may read."""
    counts = bench.do(DumpIt(0))
    private = SIZE.resident - SIZE.shared
    assert made(counts, bench) == {
        "dump_init": 1,
        "dump_cpu": SIZE.vcpus,
        "pin": private,
        "convert_from_secure": private,
        "dump_storage_state": SIZE.mib,
        "dump_complete": 1,
    }
    if bench.host.depth:
        assert family(counts, "injections") == {"pgm_3d": private}, "each refused load of the host"


def test_a_guest_goes_on_after_its_dump_and_can_be_dumped_again(bench: Bench) -> None:
    inside = memory(bench)
    bench.do(DumpIt(0), Touch(0, 1, SIZE.touch))
    counts = bench.do(DumpIt(0))
    assert made(counts, bench)["convert_from_secure"] == SIZE.touched + 2, (
        "what was used again, and the prefix pages"
    )
    bench.do(Touch(0, 0, Pages(16, SIZE.image + SIZE.touched, SIZE.image + SIZE.touched)))
    after = memory(bench)
    assert all(after[page][1:] == inside[page][1:] for page in range(16, 16 + SIZE.image)), (
        "a touch is a zero"
    )
    bench.do(Destroy(0))
    assert bench.rig.remains() == {"configs": 0, "cpus": 0, "pages": 0}
    assert bench.rig.leaks() == []


def test_pages_that_were_swapped_out_come_back_for_a_dump(bench: Bench) -> None:
    inside = memory(bench)
    host, guest = bench.host, bench.host.guest(0)
    for page in (17, 20):
        run(swap_out(host, guest, page))
    whole, pages = dumped(bench)
    opened = form.open_dump(image_of(3).cck, whole.completion, whole.cpus, whole.storage_state, pages)
    assert {page: opened.read(page * PAGE, PAGE) for page in inside} == inside
    assert not guest.swapped


def test_an_image_that_does_not_allow_dumps_is_not_dumped() -> None:
    bench = Bench(0, SIZE)
    closed = build(
        [Component(0x10000, b"kernel", 1)], seed=1, digest=bytes(32), slots=[host_key(SEED, "host")]
    )
    bench.host.image = closed
    bench.boot()
    bench.do(Create(0, 2, 1), Load(0), Start(0))
    free = bench.host.pool.free
    with pytest.raises(TeRefused, match="dump_init: rc 0x0103"):
        bench.do(DumpIt(0))
    assert bench.host.pool.free == free
    bench.do(Touch(0, 0, Pages(20, 3, 3)), Destroy(0))


def test_a_dump_that_travels_is_the_same(bench: Bench) -> None:
    inside = memory(bench)
    data = run(bench.host.perform(DumpIt(0, keep=True)))
    whole, pages = unpack(data)
    opened = form.open_dump(image_of(3).cck, whole.completion, whole.cpus, whole.storage_state, pages)
    assert {page: opened.read(page * PAGE, PAGE) for page in inside} == inside
    assert run(bench.host.perform(DumpIt(0))) is None, "nobody asked for it"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xc1", b"\x91\x01", bytes(9)),
        msgpack.packb((b"completion", ["a CPU"], b"state", [])),
        msgpack.packb((b"completion", [], b"state", [("1", b"page")])),
    ],
)
def test_other_bytes_are_no_dump(data: bytes) -> None:
    with pytest.raises(ValueError, match="no dump"):
        unpack(data)


# -- evidence and secrets ----------------------------------------------------------------------------------


def test_evidence_verifies_with_the_owners_key_alone(bench: Bench) -> None:
    image = image_of(SIZE.image)
    counts = bench.do(Attest(0, 1, 5))
    assert native(counts) == {"attest": 1}
    page = memory(bench)[papers.PAGE_AT // PAGE]
    asked = papers.attestation(bench.host, 0, 5)
    at = papers.MEASUREMENT_AT - papers.PAGE_AT
    additional = page[papers.ADDITIONAL_AT - papers.PAGE_AT :][:32]
    evidence = attestation.Evidence(page[0x148:0x158], page[at : at + 64], additional, papers.USER_DATA)
    assert attestation.verify(asked, image.header, evidence)
    assert not attestation.verify(papers.attestation(bench.host, 0, 6), image.header, evidence)
    assert not attestation.verify(asked, image_of(SIZE.image + 1).header, evidence)


def test_each_secret_is_in_the_guests_store(bench: Bench) -> None:
    counts = bench.do(*(AddSecret(0, number % 2, number) for number in range(3)))
    assert native(counts) == {"add_secret": 3}
    (config,) = machine(bench).configs.values()
    assert [secret.id for secret in config.store.secrets] == [secrets.name_to_id(f"0/{n}") for n in range(3)]
    values = {secrets.plaintext_of(secret.value) for secret in config.store.secrets}
    assert len(values) == 3
    assert all(len(value) == papers.SECRET_BYTES - 2 for value in values)


def test_the_owners_page_is_brought_in_once(bench: Bench) -> None:
    first = bench.do(Attest(0, 0, 0))
    assert made(first, bench) == {"convert_to_secure": 1}
    assert made(bench.do(Attest(0, 0, 1), AddSecret(0, 1, 0)), bench) == {}


def test_nothing_that_the_owner_sends_runs_over_its_place_in_the_page() -> None:
    bench = Bench(0, SIZE)
    assert len(papers.attestation(bench.host, 0, 0).raw) <= papers.MEASUREMENT_AT - papers.REQUEST_AT
    assert len(papers.secret(bench.host, 0, 0)) <= papers.MEASUREMENT_AT - papers.REQUEST_AT
    assert papers.REQUEST_AT - papers.BLOCK_AT >= 0x188
    assert papers.ADDITIONAL_AT + 32 <= papers.PAGE_AT + PAGE


def test_a_secret_too_many_is_the_guests_failure() -> None:
    bench = Bench(0, SIZE)
    bench.boot()
    bench.bring_up()
    bench.do(*(AddSecret(0, 0, number) for number in range(MAX_RETRIEVABLE)))
    with pytest.raises(GuestFailed, match="the program of CPU 0 failed"):
        bench.do(AddSecret(0, 0, MAX_RETRIEVABLE))
    bench.do(Destroy(0))


def made(counts: Counter[Key], bench: Bench) -> dict[str, int]:
    """The host's own calls by name."""
    depth = str(bench.host.depth)
    return {key[1]: n for key, n in counts.items() if key[0] == "te_calls" and key[4] == depth}


def native(counts: Counter[Key]) -> dict[str, int]:
    """Calls of guests by name."""
    return {key[1]: n for key, n in counts.items() if key[0] == "te_calls" and key[3] == "native"}


def test_a_swap_after_a_dump_finds_pages_outside_already() -> None:
    bench = Bench(0, SIZE)
    bench.boot()
    bench.bring_up()
    bench.do(DumpIt(0))
    counts = bench.do(Swap(0, 0, Pages(16, 9, 4, seed=1)))
    assert made(counts, bench)["convert_to_secure"] == 4 + 2, (
        "with the prefix pages, which the dump exported, too"
    )


@pytest.mark.parametrize(("profile", "most"), [("small", 64), ("full", 64), ("talk2022", 0)])
def test_a_plan_has_no_more_secrets_than_a_store_holds(profile: str, most: int) -> None:
    """Firmware of 2022 had no such call."""
    (limit,) = (each for each in PROFILES[profile].limits() if each.path == "run.secrets")
    assert limit.most == most
