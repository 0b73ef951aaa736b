"""A deployment file: what it may say, and every mistake in it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.deployment.settings import read_deployment
from actors.scenario import BrokenScenario, UnreadableScenario


def written(folder: Path, text: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> dict[str, tuple[str, str]]:
    with pytest.raises(BrokenScenario) as broken:
        read_deployment(written(folder, text))
    return {each.path: (each.allowed, each.hint) for each in broken.value.mistakes}


def test_an_empty_file_is_a_deployment(tmp_path: Path) -> None:
    deployment, resolved = read_deployment(written(tmp_path, ""))
    assert (deployment.arch, deployment.machines, deployment.placement) == ("s390", 1, "apart")
    assert deployment.load is not None
    assert deployment.load.paths == ("nested", "hosted")
    assert resolved.scenario.l1.count == 2


def test_sizes_are_those_of_the_scenario_with_what_the_file_overrides(tmp_path: Path) -> None:
    deployment, resolved = read_deployment(
        written(tmp_path, 'seed = 9\nload = false\n[set]\n"l1.count" = 3\n"guest.vcpus" = "1"\n')
    )
    assert deployment.load is None
    assert (resolved.scenario.l1.count, resolved.scenario.guest.vcpus, resolved.scenario.seed) == (3, 1, 9)


def test_a_scenario_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[l1]\ncount = 5\n")
    _, resolved = read_deployment(written(tmp_path, 'scenario = "mine.toml"\n'))
    assert resolved.scenario.l1.count == 5


def test_every_mistake_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, 'machine = 3\nplacement = "apar"\n[restart]\nintensity = -1\n[load]\npaths = ["direct"]\n'
    )
    assert set(found) == {"machine", "placement", "restart.intensity", "load.paths"}
    assert found["machine"][1] == "did you mean machines?"
    assert found["placement"][0] == "'together' or 'apart'"
    assert "0" in found["restart.intensity"][0]
    assert found["load.paths"][0] == "'nested' or 'hosted'"


def test_mistakes_in_what_is_set_are_those_of_the_scenario(tmp_path: Path) -> None:
    assert mistakes(tmp_path, '[set]\n"guest.vcpu" = 4\n')["guest.vcpu"][1] == "did you mean guest.vcpus?"


def test_hosting_is_offered_to_hosts_of_level_one_alone(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "[set]\ndepth = 2\n")["load.paths"][0] == "nested"
    deployment, _ = read_deployment(written(tmp_path, '[load]\npaths = ["nested"]\n[set]\ndepth = 2\n'))
    assert deployment.load is not None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff", "not UTF-8"),
        (b"a = = 1", "not TOML"),
        (b"#" * 70_000, "larger than"),
        (b"a=" + b"[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_none_is_told_as_such(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(content)
    with pytest.raises(UnreadableScenario, match=why):
        read_deployment(path)


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(UnreadableScenario, match="cannot be read"):
        read_deployment(tmp_path / "nothing.toml")
