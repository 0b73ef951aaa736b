"""The runtime directory: ours alone, cleared of what the dead left, and epochs that only grow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from actors.deployment.place import Place, Unusable, default_place


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    place = Place(tmp_path / "a" / "b")
    place.prepare(("l0-0",))
    assert place.root.stat().st_mode & 0o777 == 0o700


def test_a_directory_into_which_others_may_look_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(Unusable, match="chmod 700"):
        Place(tmp_path).prepare()


def test_a_link_is_no_directory_of_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Unusable, match="somebody else"):
        Place(tmp_path / "link").prepare()


def test_a_path_that_no_socket_can_have_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="too long for sockets"):
        Place(tmp_path / ("x" * 100)).prepare(("l0-0",))


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = Place(tmp_path)
    held = place.lock()
    with pytest.raises(Unusable, match="another supervisor"):
        place.lock()
    os.close(held)
    os.close(place.lock())


def test_what_the_dead_left_is_cleared_and_what_must_last_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = Place(tmp_path)
    place.write_epochs({"l0-0": 4})
    for path in (place.control("l0-0"), place.seat("l0-0"), place.hosting("l0-0", "l1-0"), place.targets):
        path.touch()
    place.log("l0-0").touch()
    place.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epochs.json", "l0-0.log"]


def test_epochs_only_grow(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = Place(tmp_path)
    assert place.next_epochs(["l0-0"]) == {"l0-0": 1}
    assert place.next_epochs(["l0-0", "load"]) == {"l0-0": 2, "load": 1}
    assert place.epochs() == {"l0-0": 2, "load": 1}


@pytest.mark.parametrize("content", ["[1]", "{", '{"l0-0": "1"}'])
def test_epochs_that_nobody_wrote_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "epochs.json").write_text(content)
    with pytest.raises(Unusable, match="epochs"):
        Place(tmp_path).epochs()


def test_targets_are_as_prometheus_reads_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = Place(tmp_path)
    place.write_targets({"l0-0": 9100}, {"l0-0": {"part": "l0-0", "role": "machine"}})
    assert json.loads(place.targets.read_text()) == [
        {"targets": ["127.0.0.1:9100"], "labels": {"part": "l0-0", "role": "machine"}}
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["targets.json"]


def test_where_a_deployment_lives_if_nobody_says() -> None:
    assert default_place("lab", {"NESTBED_DIRECTORY": "/srv/nestbed"}) == Path("/srv/nestbed")
    assert default_place("lab", {"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/nestbed/lab")
    assert default_place("lab", {}).name == "lab"


def test_processes_that_a_dead_supervisor_left_are_ended_and_nobody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = Place(tmp_path)
    left, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        os.kill(left.pid, signal.SIGSTOP)
        place.remember([left.pid, other.pid])
        known = json.loads((tmp_path / "processes.json").read_text())
        known[str(other.pid)] = "1"  # that number was another process's then
        (tmp_path / "processes.json").write_text(json.dumps(known))
        assert place.reap() == [left.pid]
        assert left.wait(60) == -signal.SIGKILL
        assert other.poll() is None
        assert place.reap() == []
    finally:
        other.kill()
        other.wait()
