"""Nothing takes bytes or text of others apart that no target of the fuzzer enters."""

from __future__ import annotations

import inspect
import re
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import wires
from readers import ROOT, Place, entered, readers
from run import TARGETS, one

from protocol.arch import architectures

# What no target enters, and why none has to. A file stands for all of its functions.
OURS = "what this program wrote itself, in a directory of its own or to a process of its own"
KERNEL = "what the kernel says"
CHECKED = "a word of the command line that a pattern or a type has checked"
GUEST = "inside of a guest of the emulated VMM, in a process of its own"
RARE = "entered by longer runs; each check behind it is counted by ./x fuzz --reached"
PLAIN = "the form of its calls is plain on the other paths that are entered"
NOT_ENTERED = {
    "actors/commands/hosted.py:_child": CHECKED,
    "actors/commands/hosted.py:adopt": CHECKED,
    "actors/commands/hosted.py:attest": CHECKED,
    "actors/commands/image.py": CHECKED,
    "actors/commands/load.py": OURS,
    "actors/compare/fleet.py": OURS,
    "actors/deployment/place.py": OURS,
    "actors/deployment/process.py": OURS,
    "actors/hosting/machine.py:ProcessMachine._inventory": OURS,
    "actors/hosting/ready.py:ReadyListener.__init__": OURS,
    "actors/hosting/serve.py:_signer": OURS,
    "actors/hosting/vmm/files.py:GuestFiles.measured": OURS,
    "actors/hosting/vmm/files.py:GuestFiles.ready": OURS,
    "actors/node.py": OURS,
    "actors/runtime/forker.py": OURS,
    "actors/runtime/zygote.py": OURS,
    "actors/hosting/vmm/guest.py:Guest.__init__": GUEST,
    "actors/hosting/vmm/guest.py:Guest._do": GUEST,
    "actors/hosting/vmm/qemu.py:Qemu.prepare": "it calls what `archives` enters",
    "actors/fleet/serve.py": "it calls what `frames` and `fleet` enter, on a live server",
    "actors/runtime/transport/address.py": KERNEL,
    "actors/runtime/transport/unix.py": KERNEL,
    "nestbed/testing.py": "answers of this program's own console",
    "protocol/arch/sev/ovmf.py:_guid": "constants",
    "protocol/arch/pef": RARE,
    "protocol/arch/s390/host": RARE,
    "protocol/arch/s390/keyboard": RARE,
    "protocol/arch/s390/machine": RARE,
    "protocol/arch/s390/nesting": RARE,
    "protocol/arch/s390/runs.py": PLAIN,
    "protocol/arch/s390/evidence/secrets.py:described": RARE,
    "protocol/arch/sev/host": RARE,
    "protocol/arch/sev/machine": RARE,
    "protocol/arch/tdx/machine": RARE,
}


def _excused(place: Place) -> bool:
    file, name = place
    ways = [str(parent) for parent in (Path(file), *Path(file).parents)]
    return f"{file}:{name}" in NOT_ENTERED or any(way in NOT_ENTERED for way in ways)


@pytest.mark.slow
def test_what_takes_bytes_or_text_apart_is_fuzzed() -> None:
    """A few inputs of each target enter it; or it is excused, and no excuse is without a reader."""
    every = set(readers("protocol", "actors", "nestbed"))
    assert len(every) > 150
    met: set[Place] = set()
    for name in TARGETS:
        for number in range(1 if name.startswith("calls-") or name == "runs" else 8):
            met |= entered(partial(one, name, 0, number))
    assert [place for place in sorted(every - met) if not _excused(place)] == []
    for excuse in NOT_ENTERED:
        assert any(f"{file}:{name}".startswith(excuse) for file, name in every), excuse


@pytest.mark.parametrize(
    "arch", [arch for arch in architectures() if find_spec(f"protocol.arch.{arch}.structs")]
)
def test_every_structure_that_unpacks_is_a_target(arch: str) -> None:
    """One that a new version of a `structs.py` brings is found by itself, or this fails."""
    module = import_module(f"protocol.arch.{arch}.structs")
    written = re.findall(r"^class (\w+)(?:(?!^class )[\s\S])*?def unpack\(", inspect.getsource(module), re.M)
    assert written
    assert set(written) <= set(wires.structs(Random(0)))


def test_the_page_about_tests_names_every_target() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    table = page[page.index("## Fuzzing") :]
    named = set(re.findall(r"`([a-z0-9_-]+)`", table))
    assert [name for name in TARGETS if name not in named] == []
