"""A whole comparison through the collector: every count arrives, under labels that stay words and few."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from actors.compare.progress import Progress
from actors.compare.run import run
from actors.observe import metrics as m
from actors.observe.collector import Collector
from actors.scenario import load
from protocol.ledger import Ledger, flatten
from protocol.tracking import Book

FLAGS = {
    "arch": "s390",
    "paths": "direct,nested,hosted,mixed",
    "guest.image_pages": "4",
    "guest.touch_pages": "4",
    "guest.share_pages": "2",
    "run.swap_pages": "2",
}
pytestmark = pytest.mark.slow

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,39}|[0-9]")
SERIES = (
    200  # of one family on one path: the calls of a table by treatment, or the kinds of records by holder
)


@pytest.fixture(scope="module")
def seen() -> tuple[Collector, dict[str, Ledger]]:
    """A collector that has watched a comparison on all paths, and the ledger of each path."""
    collector, ledgers, progress = Collector(), {}, Progress()

    def attach(arch: str, path: str, ledger: Ledger, books: Iterable[Book]) -> None:
        ledgers[path] = ledger
        collector.attach(arch, path, ledger, books)

    progress.on_attach = attach
    run(load("default", flags=FLAGS, environment={}).scenario, progress)
    return collector, ledgers


def test_every_path_was_seen(seen: tuple[Collector, dict[str, Ledger]]) -> None:
    assert set(seen[1]) == {"direct", "nested", "hosted", "mixed"}


def test_every_count_of_every_path_arrives(seen: tuple[Collector, dict[str, Ledger]]) -> None:
    collector, ledgers = seen
    values = collector.read().values
    for path, ledger in ledgers.items():
        flat = flatten(ledger.counts())
        for family, exported in m.BY_LEDGER.items():
            arrived = sum(n for labels, n in values[exported].items() if labels[1] == path)
            assert arrived == flat.get(family, 0), (path, family)


def test_labels_are_words_and_few(seen: tuple[Collector, dict[str, Ledger]]) -> None:
    values = seen[0].read().values
    for family in m.BY_LEDGER.values():
        for path in seen[1]:
            series = [labels for labels in values[family] if labels[1] == path]
            assert len(series) <= SERIES, family.name
            for labels in series:
                assert all(WORD.fullmatch(label) for label in labels), (family.name, labels)
    assert values[m.FOLDED] == {}


def test_nothing_lives_when_all_is_over_but_what_outlives_a_guest(
    seen: tuple[Collector, dict[str, Ledger]],
) -> None:
    """No record of a guest stays: what is left is about hosts, and what is remembered of guests."""
    left = {labels[2] for labels, n in seen[0].read().values[m.RECORDS].items() if n}
    of_guests = {"vm_map", "vcpu_map", "secure_page", "native_page", "shadow_vcpu", "native_vcpu", "child"}
    assert left & of_guests == set()
