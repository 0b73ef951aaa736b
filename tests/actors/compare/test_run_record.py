"""What a comparison records can be asked again, at the depth where it was said and at any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.compare.progress import Progress
from actors.compare.run import run
from actors.keyboard import keyboard
from actors.record import Transcripts, read, replay
from protocol.arch.sev.structs import REPORT_LEN
from protocol.plan.scenario import ExitKind, Exits, GuestHosts, Guests, Run, Scenario, Strategy

pytestmark = pytest.mark.slow


def written(folder: Path, scenario: Scenario) -> Path:
    transcripts = Transcripts(folder)
    run(scenario, Progress(), transcripts)
    transcripts.close()
    return folder


MEMORY_MIB = {"s390": 2060, "sev": 64, "sev-es": 64, "snp": 64, "tdx": 256, "pef": 64}  # of a host
ENTRIES = dict.fromkeys(MEMORY_MIB, 500) | {
    "sev": 100,
    "sev-es": 100,
    "pef": 100,
}  # at least; on POWER a person types system calls


@pytest.fixture(scope="module", params=MEMORY_MIB)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def recorded(arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One host with two guests, and all that hosts do."""
    exits = Exits(ExitKind(2, "kernel"), ExitKind(1, "vmm"), ExitKind(1, "vmm"), ExitKind(1, "kernel"))
    scenario = Scenario(
        arch=(arch,),
        paths=("direct", "nested"),
        l1=GuestHosts(count=1, memory_mib=MEMORY_MIB[arch], cpus=2),
        guest=Guests(per_l1=2, memory_mib=1, vcpus=2, image_pages=3, touch_pages=5, share_pages=2),
        run=Run(
            exits=exits,
            swap_pages=2,
            page_changes=2,
            attestations=1,
            secrets=2,
            resets=2,
            dumps=1,
            reboots=1,
            deaths=1,
        ),
    )
    return written(tmp_path_factory.mktemp("recorded"), scenario)


def asked_again(path: Path, depth: int | None = None) -> tuple[int, object]:
    """At the depth where it was said, if no other is named."""
    reading = read(path)
    options = reading.options if depth is None else replace(reading.options, depth=depth)
    return replay(reading, keyboard(options), options.depth)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_nested_host_gets_the_same_answers_again(recorded: Path, arch: str, depth: int) -> None:
    same, difference = asked_again(recorded / f"{arch}-nested.jsonl", depth)
    if arch in ("sev", "sev-es") and depth != 1:  # a legacy report is signed by the host's own platform
        assert difference is not None and difference.asked["len"] == REPORT_LEN
    else:
        assert difference is None
    assert same > ENTRIES[arch]


def test_so_does_l0_on_the_machine(recorded: Path, arch: str) -> None:
    same, difference = asked_again(recorded / f"{arch}-direct.jsonl")
    assert difference is None
    assert same > ENTRIES[arch]


@pytest.fixture(scope="module")
def several(arch: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, Path]:
    """Three hosts that take turns, on one machine or as three shares of what L0 has."""
    scenario = Scenario(
        arch=(arch,),
        paths=("direct", "nested"),
        l1=GuestHosts(count=3, memory_mib=MEMORY_MIB[arch], cpus=2),
        guest=Guests(per_l1=2, memory_mib=1, vcpus=1, image_pages=2, touch_pages=3, share_pages=1),
        run=Run(swap_pages=1, page_changes=1, resets=1, reboots=1, deaths=1),
    )
    return scenario, written(tmp_path_factory.mktemp("several"), scenario)


def test_a_run_with_several_hosts_says_the_same_each_time(
    several: tuple[Scenario, Path], arch: str, tmp_path: Path
) -> None:
    scenario, one = several
    two = written(tmp_path, scenario)
    said = {path.name: path.read_bytes() for path in one.iterdir()}
    assert set(said) == {f"{arch}-direct.jsonl", f"{arch}-nested.jsonl"}
    assert said == {path.name: path.read_bytes() for path in two.iterdir()}


@pytest.mark.parametrize("path", ["direct", "nested"])
def test_several_hosts_get_the_same_answers_again(
    several: tuple[Scenario, Path], arch: str, path: str
) -> None:
    same, difference = asked_again(several[1] / f"{arch}-{path}.jsonl")
    assert difference is None
    assert same > ENTRIES[arch]


WORDS = {
    "s390": ({"handles": "mapped"}, {"donation": "bounded", "pages": "prefault"}),
    "pef": ({"handles": "mapped"},),
}


def test_the_levels_below_are_those_of_the_scenario(arch: str, tmp_path: Path) -> None:
    """A host may be told what its levels do, and then it says other things."""
    for number, words in enumerate(WORDS.get(arch, ())):
        scenario = Scenario(
            arch=(arch,),
            paths=("nested",),
            l1=GuestHosts(count=2, memory_mib=MEMORY_MIB[arch], cpus=2),
            guest=Guests(per_l1=2, memory_mib=1, vcpus=1, image_pages=2, touch_pages=3),
            run=Run(swap_pages=1, page_changes=1, reboots=1),
            strategy=Strategy(**words),
        )
        path = written(tmp_path / f"{number}", scenario) / f"{arch}-nested.jsonl"
        same, difference = asked_again(path)
        assert difference is None
        assert same
