"""A run as OpenMetrics text: whatever reads OpenMetrics reads it, and finds the counts of run.json."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from actors.compare.openmetrics import Recording
from actors.compare.progress import Progress, Stopped
from actors.compare.run import run
from actors.observe import metrics as m
from actors.observe.collector import Collector, registry_of
from actors.scenario import load
from protocol.ledger import FAMILIES

Json = dict[str, Any]
FLAGS = {
    "arch": "s390",
    "paths": "direct,nested,hosted",
    "l1.count": "2",
    "guest.image_pages": "4",
    "guest.touch_pages": "4",
    "guest.share_pages": "2",
    "run.swap_pages": "2",
}
PROMTOOL = os.environ.get("NESTBED_PROMTOOL") or shutil.which("promtool")


@pytest.fixture(scope="module")
def recorded() -> tuple[str, list[Json]]:
    """What a small comparison left, as text, and its results."""
    progress = Progress()
    progress.recording = Recording()
    outcome = run(load("default", flags=FLAGS, environment={}).scenario, progress)
    return progress.recording.text(outcome.results), outcome.results


def samples(text: str) -> list[Any]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def final(text: str) -> dict[tuple[str, str], float]:
    """The last value of every series, added up by its name and path."""
    last = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for sample in sorted(samples(text), key=lambda sample: float(sample.timestamp))
    }
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for (name, labels), value in last.items():
        sums[name, dict(labels).get("path", "")] += value
    return sums


@pytest.mark.slow
def test_the_last_points_are_the_counts_of_run_json(recorded: tuple[str, list[Json]]) -> None:
    text, results = recorded
    assert text.endswith("# EOF\n")
    found = final(text)
    assert {result["path"] for result in results} == {"direct", "nested", "hosted"}
    for result in results:
        for family in FAMILIES:
            exported = m.BY_LEDGER[family].sample
            assert found[exported, result["path"]] == result["counts"].get(family, 0), (
                exported,
                result["path"],
            )


@pytest.mark.slow
def test_no_counter_falls_and_each_begins_at_zero(recorded: tuple[str, list[Json]]) -> None:
    series = defaultdict(list)
    for sample in samples(recorded[0]):
        if sample.name.endswith("_total"):
            series[sample.name, tuple(sorted(sample.labels.items()))].append(sample)
    assert len(series) > 300
    for points in series.values():
        times, values = [float(p.timestamp) for p in points], [p.value for p in points]
        assert values[0] == 0 and values == sorted(values)
        assert times == sorted(set(times))


@pytest.mark.slow
def test_labels_are_those_of_the_endpoint_and_their_words_are_whole(recorded: tuple[str, list[Json]]) -> None:
    known = {family.sample: set(family.labels) for family in m.FAMILIES}
    for sample in samples(recorded[0]):
        assert set(sample.labels) == known[sample.name]
    levels = {s.labels["origin"] for s in samples(recorded[0]) if s.name == "nestbed_te_calls_total"}
    assert levels <= {"0", "1", "guest"}


@pytest.mark.slow
def test_what_lives_rises_and_is_gone_at_the_end(recorded: tuple[str, list[Json]]) -> None:
    maps = [
        sample.value
        for sample in samples(recorded[0])
        if sample.name == m.RECORDS.sample
        and (sample.labels["path"], sample.labels["kind"], sample.labels["holder"])
        == ("nested", "vm_map", "l0")
    ]
    assert max(maps) > 0 and maps[-1] == 0


def test_names_with_dots_stay_whole(result: Any) -> None:
    """A call of some documents has dots in its name; the labels around it keep their places."""
    one = result("nested")
    one["phases"] = {"create": {"te_calls": 5, "te_calls.TDH.MNG.CREATE.create.emulate.1": 5}}
    found = [s for s in samples(Recording().text([one])) if s.value == 5]
    assert {s.labels["call"] for s in found} == {"TDH.MNG.CREATE"}
    assert {(s.labels["category"], s.labels["origin"]) for s in found} == {("create", "1")}


def test_a_clock_that_stands_still_gives_times_that_rise(result: Any) -> None:
    recording = Recording(lambda: 100.0)
    recording.attach("s390", "nested", None, ())
    recording.phase("boot")
    recording.phase("run")
    recording.phase(None)
    one = result("nested")
    one["phases"] = {"boot": {"entries.1": 3}, "run": {"entries.1": 4}}
    points = [
        (float(s.timestamp), s.value)
        for s in samples(recording.text([one]))
        if s.name == "nestbed_entries_total" and s.labels["level"] == "1"
    ]
    assert points == [(100.001, 0), (100.002, 3), (100.003, 7), (100.004, 7)]


def test_a_run_that_was_stopped_records_what_was_finished() -> None:
    progress = Progress()
    progress.recording = Recording()
    progress.attach("s390", "nested", None)
    progress.stopped = True
    with pytest.raises(Stopped):
        progress.phase("nested", "create", 0, 1)
    text = progress.recording.text(progress.results)
    assert {sample.name for sample in samples(text)} == {"nestbed_build_info", m.STARTED.sample}


@pytest.mark.slow
@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: apt install prometheus)")
def test_promtool_makes_storage_of_it(recorded: tuple[str, list[Json]], tmp_path: Path) -> None:
    text = tmp_path / "metrics.om"
    text.write_text(recorded[0])
    command = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", str(text), str(tmp_path / "data")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    assert any((tmp_path / "data").glob("*/index"))


@pytest.mark.slow
@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: apt install prometheus)")
def test_promtool_has_nothing_to_say_about_what_a_scrape_gets() -> None:
    collector, progress = Collector(), Progress()
    progress.on_attach = collector.attach
    run(load("default", flags=FLAGS, environment={}).scenario, progress)
    scraped = generate_latest(registry_of(collector)).decode()
    command = [PROMTOOL, "check", "metrics"]
    said = subprocess.run(command, input=scraped, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
