"""While a comparison runs, a scrape finds the actors of its path by role, and the service of its broker."""

from __future__ import annotations

from typing import Any

import pytest

from actors.commands.metrics import Watching
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.observe import metrics as m
from actors.observe.collector import Collector
from actors.scenario import load

FLAGS = {
    "arch": "s390",
    "paths": "direct,nested,hosted,mixed",
    "depth": "2",
    "l1.count": "2",
    "guest.per_l1": "1",
    "guest.image_pages": "2",
    "guest.touch_pages": "2",
    "guest.share_pages": "1",
    "run.swap_pages": "1",
}
RUNNING = {"direct": (1, 0, 1, 0), "nested": (1, 2, 2, 0), "hosted": (1, 0, 1, 1), "mixed": (1, 2, 3, 1)}


class Scraper(Progress):
    """Scrapes at the beginning of each phase."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self.collector = collector
        self.seen: list[tuple[str, str, dict[Any, dict[tuple[str, ...], float]]]] = []

    def phase(self, path: str, phase: str, done: int, total: int) -> None:
        super().phase(path, phase, done, total)
        values = self.collector.read().values
        self.seen.append((path, phase, {family: dict(found) for family, found in values.items()}))


@pytest.fixture(scope="module")
def scraper() -> Scraper:
    collector = Collector()
    watching, progress = Watching(collector, 2), Scraper(collector)
    progress.on_attach, progress.on_staged = watching.attach, watching.staged
    run(load("default", flags=FLAGS, environment={}).scenario, progress)
    return progress


@pytest.mark.parametrize("path", RUNNING)
def test_actors_are_there_by_role(scraper: Scraper, path: str) -> None:
    values = next(v for at, phase, v in scraper.seen if at == path and phase == "run")
    live = [values[m.ACTORS].get((role, "live"), 0) for role in ("te", "kvm", "host", "broker")]
    assert tuple(live) == RUNNING[path]
    assert values[m.ACTORS]["guest", "live"] == 2
    assert not any(n for (_, state), n in values[m.ACTORS].items() if state == "dead")


def test_the_brokers_service_is_seen_while_it_serves(scraper: Scraper) -> None:
    for path, phase, values in scraper.seen:
        ready = values.get(m.GUESTS, {}).get(("s390", "hosted", "ready"), 0)
        if phase == "run":
            assert ready == {"hosted": 2, "mixed": 1}.get(path, 0), path


def test_what_the_service_counted_stays_when_its_path_is_over(scraper: Scraper) -> None:
    starts = [values.get(m.REQUESTS, {}).get(("s390", "hosted", "start"), 0) for _, _, values in scraper.seen]
    assert starts == sorted(starts), "a counter never steps back"
    assert starts[-1] > 0
