"""However many guests and hosts there are, a scrape has the same series: no label tells them apart."""

from __future__ import annotations

import pytest

from actors.commands.metrics import Watching
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.observe.collector import Collector
from actors.observe.metrics import SERIES_LIMIT
from actors.scenario import load

ALL = {"arch": "s390,sev,tdx,pef", "paths": "direct,nested,hosted"}
MOST = 8_000  # series of all four architectures on all paths together


def series(**flags: str) -> dict[str, int]:
    """Series by family, at the end of a run."""
    collector = Collector()
    watching = Watching(collector, depth=1)
    progress = Progress()
    progress.on_attach, progress.on_staged = watching.attach, watching.staged
    run(load("default", flags=ALL | flags, environment={}).scenario, progress)
    found = {family.name: len(family.samples) for family in collector.collect()}
    return {name: n for name, n in found.items() if name != "nestbed_contention"}  # as it happens to come


@pytest.fixture(scope="module")
def few() -> dict[str, int]:
    return series(**{"l1.count": "1", "guest.per_l1": "1"})


@pytest.mark.slow
def test_more_guests_and_hosts_make_no_more_series(few: dict[str, int]) -> None:
    assert series(**{"l1.count": "2", "guest.per_l1": "2"}) == few


@pytest.mark.slow
def test_all_of_them_are_few(few: dict[str, int]) -> None:
    assert max(few.values()) < SERIES_LIMIT
    assert 1_000 < sum(few.values()) < MOST
