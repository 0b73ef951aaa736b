"""Row 13: a large guest ends, and the next one starts while its pages still go."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from host_bench import Bench, Size

from protocol.arch.s390.host.destroy import BEHIND
from protocol.ledger import Key
from protocol.plan.operations import Create, Destroy, Exits, Load, Pages, Shutdown, Start, Touch
from protocol.tracking import Book

MIB = 2056  # larger than what is worth a thread
FAR = Pages(524288, 5 * BEHIND, 5 * BEHIND)  # pages that no prefix can be in
SIZE = Size(2, 3, 5, 2, MIB)
NEXT = (Create(0, MIB, 1), Load(0), Start(0), Touch(0, 0, SIZE.touch), Exits(0, 0, "wait", "kernel", 1))
DEPTHS = [0, 1, pytest.param(2, marks=pytest.mark.slow)]


@pytest.fixture(params=DEPTHS, ids=lambda depth: f"depth{depth}")
def bench(request: pytest.FixtureRequest) -> Bench:
    return grown(request.param)


def grown(depth: int, **options: Any) -> Bench:
    """A host with a large guest that uses pages beyond 2 GiB."""
    made = Bench(depth, SIZE, **options)
    made.host._book = Book(made.rig.ledger, "host")
    made.boot()
    made.bring_up()
    made.do(Touch(0, 0, FAR))
    return made


def own(counts: Counter[Key], bench: Bench) -> dict[str, int]:
    """The host's own calls by name."""
    depth = str(bench.host.depth)
    return {key[1]: n for key, n in counts.items() if key[0] == "te_calls" and key[4] == depth}


def left(bench: Bench) -> int:
    """Secure pages in the machine."""
    return int(bench.rig.remains()["pages"])


def test_what_could_be_a_prefix_goes_at_once_and_the_rest_waits(bench: Bench) -> None:
    counts = own(bench.do(Destroy(0, behind=True)), bench)
    assert counts == {"destroy_cpu": 2, "destroy_config_fast": 1, "destroy_storage": SIZE.resident}
    assert left(bench) == len(FAR)


def test_the_next_guest_starts_while_the_old_pages_go(bench: Bench) -> None:
    bench.do(Destroy(0, behind=True))
    for number, operation in enumerate(NEXT, 1):
        counts = own(bench.do(operation), bench)
        assert counts["destroy_storage"] == BEHIND
        old, living = len(FAR) - number * BEHIND, bench.rig.machines[0].by_serial.values()
        assert left(bench) == old + sum(np.count_nonzero(config.resident) for config in living)
    assert bench.host.aside is None
    assert "destroy_storage" not in own(bench.do(Exits(0, 0, "wait", "kernel", 1)), bench)
    bench.do(Destroy(0), Shutdown())
    assert not any(bench.rig.remains().values())
    assert bench.host.leaked == 0


def test_the_peak_of_both_lives_is_in_the_hosts_book(bench: Bench) -> None:
    book = bench.host._book
    assert book is not None
    bench.do(Destroy(0, behind=True))
    book.reset_peaks()
    many = Pages(100, 6 * BEHIND, 6 * BEHIND)
    bench.do(*NEXT[:3], Touch(0, 0, many))
    old, new = len(FAR) - 4 * BEHIND, SIZE.image + 2 + len(many)
    assert book.peaks()["native_page"] == book.records()["native_page"] == old + new > len(FAR)


def test_one_guest_can_be_set_aside(bench: Bench) -> None:
    """The next large one is destroyed in order: pages first released are those of the one before."""
    bench.do(Destroy(0, behind=True), *NEXT[:3])
    counts = own(bench.do(Destroy(0, behind=True)), bench)
    assert "destroy_config" in counts
    assert counts["destroy_storage"] == BEHIND + SIZE.image + 2
    assert bench.host.aside is not None


def test_a_shutdown_waits_for_the_rest(bench: Bench) -> None:
    bench.do(Destroy(0, behind=True))
    assert own(bench.do(Shutdown()), bench) == {"destroy_storage": len(FAR)}
    assert not any(bench.rig.remains().values())


@pytest.mark.parametrize("operations", range(len(NEXT) + 1))
def test_a_host_that_dies_meanwhile_leaves_nothing(operations: int) -> None:
    bench = grown(1)
    bench.do(Destroy(0, behind=True), *NEXT[:operations])
    bench.die()
    assert not any(bench.rig.remains().values())
    assert bench.rig.leaks() == []


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_in_runs_it_is_the_same(depth: int) -> None:
    one, runs = grown(depth), grown(depth, bulk=True)
    for operation in (Destroy(0, behind=True), *NEXT, Destroy(0), Shutdown()):
        assert one.do(operation) == runs.do(operation), operation
