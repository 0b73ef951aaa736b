"""Every command of `nestbed hosted` against a running `nestbed node`: a machine with a Trusted Entity."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
from protocol.arch import load

pytestmark = pytest.mark.slow

LAB = """name = "lab"
load = false
placement = "together"
[set]
"l1.count" = 1
"guest.per_l1" = 1
"guest.memory_mib" = 4
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The directory of a node that is up."""
    lab, place = tmp_path / "lab.toml", tmp_path / "run"
    lab.write_text(LAB)
    command = [sys.executable, "-m", "nestbed", "node", str(lab), "--directory", str(place)]
    with (tmp_path / "said").open("w") as said:
        node = subprocess.Popen(command, stderr=said, stdout=subprocess.DEVNULL)
    try:
        doctor = [sys.executable, "-m", "nestbed", "doctor", "--ready", "--directory", str(place)]
        while subprocess.run(doctor, capture_output=True, check=False).returncode != exit_codes.OK:
            assert node.poll() is None, (tmp_path / "said").read_text()
        yield place
    finally:
        node.terminate()
        assert node.wait() == exit_codes.OK


class Asking:
    """One requester at its terminal."""

    def __init__(self, place: Path) -> None:
        self.to = f"unix:{place}/l0-0.hosting"

    def run(self, command: str, *arguments: object, stdin: str = "", expect: int = 0) -> str:
        words = ["hosted", command, *[str(each) for each in arguments], "--to", self.to]
        done = CliRunner().invoke(app, words, input=stdin)
        assert done.exit_code == expect, (command, done.output)
        return done.stdout if expect == 0 else done.stderr

    def json(self, command: str, *arguments: object) -> Any:
        return json.loads(self.run(command, *arguments))


def test_every_command_works_against_a_node(place: Path, tmp_path: Path) -> None:
    comparison = load("s390").comparison
    assert comparison is not None
    image = tmp_path / "guest.img"
    image.write_bytes(comparison.pack_image(comparison.image(1, 4, None)))
    host = Asking(place)
    assert host.json("hello")["profile"] == "peer"

    started = host.json("start", image, "--key", 1, "--memory", 4, "--debug", "--label", "name=first")
    child = started["child"]
    assert (started["state"], started["replayed"]) == ("READY", False)
    assert host.json("start", image, "--key", 1, "--memory", 4, "--debug", "--label", "name=first") == (
        started | {"replayed": True}
    )
    assert host.json("wait", child[:6])["state"] == "READY"
    assert [each["labels"] for each in host.json("list", "--json")] == [{"name": "first"}]
    assert host.json("describe", child)["charged"] == started["charged"]
    assert host.json("quota")["children"]["charged"] == 1
    assert "boot 1" in host.run("console", child)
    assert host.json("reset", child)["state"] == "READY"
    assert "boot 2" in host.run("console", child)
    assert "bound to the Trusted Entity" in host.run("migrate", expect=exit_codes.FAILED)
    assert "profile peer" in host.run("deposit", 1, expect=exit_codes.USAGE)
    assert channel(host, child, 7, "there and back\n") == "there and back\n"
    assert "not opened" in host.run("channel", child, 8, expect=exit_codes.FAILED)
    said = host.json("attest", child, "--trust", place / "l0-0.pub")
    assert (said["verified"], said["child"], said["debug"]) == (True, child, True)

    assert host.json("stop", child, "--kill")["state"] == "STOPPED"
    assert "BAD_STATE" in host.run("channel", child, 7, expect=exit_codes.FAILED)
    assert host.json("destroy", child)["state"] == "RELEASED"
    events = [json.loads(line) for line in host.run("watch", "--since", 0, "--count", 9).splitlines()]
    assert [event["state"] for event in events if event["kind"] == "state"][-3:] == [
        "STOPPING",
        "STOPPED",
        "RELEASED",
    ]
    assert host.json("list", "--exited", "--json")[0]["state"] == "RELEASED"
    assert host.json("destroy", child, "--ack")["state"] == "RELEASED"
    assert "BUSY_RELEASING" in host.run("explain", 402)
    assert host.json("quota")["children"]["charged"] == 0
    assert host.json("migrate")["may_move"] is True


def channel(host: Asking, child: str, port: int, text: str) -> str:
    """What a port of the child answers to `text`: the command has its own standard input and output."""
    command = [sys.executable, "-m", "nestbed", "hosted", "channel", child, str(port), "--to", host.to]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
