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
NO_BYTES = "Unpack Image of a run of pages: its name is all that it has of a reader"
SNP_SOFTWARE = "of what an SNP guest and its host wrote: no target has such guests attest"
INPUTS = {"calls-pef": 1, "calls-s390": 3, "calls-sev": 2, "calls-tdx": 2, "runs": 1}  # of others: 8
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
    "protocol/arch/pef/host/__init__.py:_read": "hex that the emulated machine itself wrote",
    "protocol/arch/pef/kvm/nested.py:enter_nested": "of a VM that runs VMs, which no target has",
    "protocol/arch/s390/host/bulk.py:_unpack_alike": NO_BYTES,
    "protocol/arch/s390/runs.py:unpack": NO_BYTES,
    "protocol/arch/s390/keyboard/host.py:S390Host._called": "the first words of a block, to count its call",
    "protocol/arch/s390/nesting/entry.py:_own_pin": "an address that is compared, of a block of fixed length",
    "protocol/arch/sev/host/attest.py:answer": SNP_SOFTWARE,
    "protocol/arch/sev/host/attest.py:report": SNP_SOFTWARE,
    "protocol/arch/sev/host/guests.py:Guests.attest": SNP_SOFTWARE,
    "protocol/arch/sev/machine/swap.py:swap_in": "by what reads a legacy guest's entries, which is entered",
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
        for number in range(INPUTS.get(name, 8)):
            met |= entered(partial(one, name, 0, number))
    assert [place for place in sorted(every - met) if not _excused(place)] == []
    for excuse in NOT_ENTERED:
        assert any(f"{file}:{name}".startswith(excuse) for file, name in every), excuse
        assert not excuse.startswith("protocol") or excuse.count(":") == 1, f"{excuse}: name the function"


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
