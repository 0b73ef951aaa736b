"""`nestbed image`, `nestbed measure`, and a real file that boots on every path."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy
import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from actors.compare.progress import Progress
from actors.compare.run import run as compare
from actors.scenario import known_architectures, load
from protocol.arch.s390.image import Digests

MOST = 64 << 20  # bytes of a real kernel that a test takes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernel").write_bytes(b"a kernel " * 1000)
    (tmp_path / "pem").write_bytes(b"no key")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1"})


def built(*more: str, out: str = "guest.img") -> Path:
    result = run("image", "build", "kernel", *more, "-o", out)
    assert result.exit_code == exit_codes.OK, result.output
    assert result.stdout == "", "an image is no output"
    return Path(out)


def test_the_same_command_writes_the_same_bytes() -> None:
    assert built(out="one").read_bytes() == built(out="two").read_bytes()
    assert built("--seed", "7", out="three").read_bytes() != Path("one").read_bytes()


def test_an_image_is_shown_in_words() -> None:
    Path("initrd").write_bytes(b"r")
    built("--initrd", "initrd", "--cmdline", "quiet", "--pcf", "0x20000000")
    text = run("image", "show", "guest.img").stdout
    assert re.search(
        r"^plaintext flags +0x0000000020000000: the host may dump the guest$", text, re.MULTILINE
    )
    assert re.search(r"^component 0x1 +3 pages at 0x10000 to 0x13000$", text, re.MULTILINE)
    assert re.search(r"^component 0x2 +1 pages at 0x13000 to 0x14000$", text, re.MULTILINE)
    assert re.search(r"^component 0x3 +1 pages at 0x14000 to 0x15000$", text, re.MULTILINE)
    assert len(re.findall(r"^key slot \d .*: the emulated machine of seed [01]$", text, re.MULTILINE)) == 2
    assert json.loads(run("image", "show", "guest.img", "--json").stdout)["version"] == "0x100: version 1"


def test_the_last_lines_of_a_measurement_are_the_three_digests_of_the_header() -> None:
    header = built().read_bytes()
    lines = run("measure", "--arch", "s390", "guest.img").stdout.splitlines()[-3:]
    assert [line.split() for line in lines] == [
        [name, header[at : at + 64].hex()] for name, at in (("PLD", 0xE0), ("ALD", 0x120), ("TLD", 0x160))
    ]


def test_a_command_line_of_any_bytes_is_taken() -> None:
    built("--cmdline", "word=\udcff", "--pcf", hex(1 << (63 - 35)))  # components are left in the clear
    assert b"word=\xff\0" in Path("guest.img").read_bytes()


def test_a_changed_page_fails_the_measurement() -> None:
    data = built().read_bytes()
    Path("bad.img").write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    result = run("measure", "bad.img")
    assert result.exit_code == exit_codes.FAILED
    assert "0x001b" in result.stderr
    assert len(result.stdout.splitlines()) == 3


def test_the_owners_key_is_kept_from_others() -> None:
    built("--cck", "owner.key")
    assert Path("owner.key").stat().st_mode & 0o077 == 0
    assert len(Path("owner.key").read_bytes()) == 32
    assert Path("owner.key").read_bytes() not in Path("guest.img").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["image", "build", "none", "-o", "x"], exit_codes.USAGE, "none: No such file"),
        (["image", "build", ".", "-o", "x"], exit_codes.USAGE, "not a regular file"),
        (["image", "build", "kernel", "-o", "no/x"], exit_codes.ENVIRONMENT, "no/x: cannot be written"),
        (["image", "build", "kernel", "-o", "."], exit_codes.ENVIRONMENT, "it is a directory"),
        (["image", "build", "kernel", "-o", "x", "--psw", "12"], exit_codes.USAGE, "32 hexadecimal digits"),
        (["image", "build", "kernel", "-o", "x", "--pcf", "dump"], exit_codes.USAGE, "--pcf dump: allowed"),
        (["image", "build", "kernel", "-o", "x", "--host-key", "pem"], exit_codes.USAGE, "host key 1: "),
        (["image", "build", "kernel", "-o", "x", "--scf", "-1"], exit_codes.USAGE, "scf: control flags"),
        (["image", "build", "kernel", "-o", "./kernel"], exit_codes.USAGE, "would be written over"),
        (["image", "build", "kernel", "-o", "x", "--initrd", "x"], exit_codes.USAGE, "would be written over"),
        (["image", "build", "kernel", "-o", "x", "--cck", "x"], exit_codes.USAGE, "would be written over"),
        (["image", "build", "kernel", "-o", "x", "--arch", "tdx"], exit_codes.USAGE, "allowed: .*s390"),
        (["image", "build", "kernel", "-o", "x", "--arch", "vax"], exit_codes.USAGE, "no such architecture"),
        (["image", "show", "kernel"], exit_codes.USAGE, "kernel is no image of s390: it does not begin"),
        (["measure", "kernel"], exit_codes.USAGE, "nestbed image build"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(
    arguments: list[str], code: int, why: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert re.search(why, " ".join(result.stderr.split())), result.stderr
    assert not Path("x").exists()


# -- an image in a comparison ----------------------------------------


def scenario_of(image: Path, **flags: str) -> Any:
    said = {"guest.image": str(image), "arch": "s390", **flags}
    return load(
        None,
        flags={name.replace("__", "."): value for name, value in said.items()},
        known=known_architectures(),
    )


def test_an_image_brings_the_number_of_its_pages() -> None:
    assert scenario_of(built()).scenario.guest.image_pages == 3
    assert scenario_of(Path("kernel")).scenario.guest.image_pages == 3


def test_an_image_with_a_changed_page_is_refused_before_the_run() -> None:
    image = built()
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    result = run("compare", "--image", str(image), "-q")
    assert result.exit_code == exit_codes.USAGE
    assert "0x001b" in result.stderr


def test_an_image_that_allows_no_dumps_is_refused_where_dumps_are_wanted() -> None:
    result = run("compare", "--image", str(built()), "--set", "run.dumps=1", "-q")
    assert result.exit_code == exit_codes.USAGE
    assert "build it with --pcf 0x20000000" in " ".join(result.stderr.split())
    assert scenario_of(built("--pcf", "0x20000000"), run__dumps="1").scenario.run.dumps == 1


@pytest.mark.parametrize(
    ("more", "cut", "why"),
    [
        (["--seed", "5"], None, "no key slot for the machine of seed 1"),
        ([], -1, "make"),
        ([], 0x2D0, "alone"),
    ],
    ids=["another machine's", "torn", "header alone"],
)
def test_an_image_that_would_not_boot_is_refused_before_the_run(
    more: list[str], cut: int | None, why: str
) -> None:
    image = built(*more)
    image.write_bytes(image.read_bytes()[:cut])
    result = run("compare", "--image", str(image), "-q")
    assert result.exit_code == exit_codes.USAGE
    assert why in result.stderr


def is_program(path: Path) -> bool:
    """An ELF file or a bzImage, as its own header says."""
    with path.open("rb") as file:
        head = file.read(0x206)
    return head[:4] == b"\x7fELF" or head[0x202:] == b"HdrS"


def real_kernels() -> list[Path]:
    """What this machine has that boots: kernels first, then the machine code that runs this very test."""
    python = Path(sys.executable).resolve()
    library = Path(sysconfig.get_config_var("LIBDIR") or "/") / (sysconfig.get_config_var("LDLIBRARY") or "")
    fetched = Path(os.environ.get("NESTBED_QEMU_KERNEL") or "/none")  # Debian's, in continuous integration
    kernels = [fetched, *Path("/boot").glob("vmlinuz*"), *Path("/usr/lib/modules").glob("*/vmlinuz")]
    numbers = Path(numpy.__file__).parent.rglob("_multiarray_umath*.so")
    return [
        path
        for path in (*kernels, library, python, *numbers)
        if path.is_file() and os.access(path, os.R_OK) and path.stat().st_size <= MOST and is_program(path)
    ]


KERNEL = next(iter(real_kernels()), None)


@pytest.mark.slow
@pytest.mark.skipif(KERNEL is None, reason="no kernel in /boot, no ELF file that Python runs from")
@pytest.mark.parametrize("kernel", [KERNEL], ids=lambda path: f"of {path.name}" if path else "none")
def test_a_real_kernel_boots_on_every_path_with_equal_digests(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the Ultravisor digested while it unpacked is on each path what `nestbed measure` says."""
    result = run("image", "build", str(kernel), "--cmdline", "root=/dev/vda", "-o", "real.img")
    assert result.exit_code == exit_codes.OK, result.output
    said = json.loads(run("measure", "--json", "real.img").stdout)
    seen: dict[str, set[tuple[int, str, str, str]]] = defaultdict(set)
    compare_digests = Digests.compare

    def recording(self: Digests, expected: Any) -> int | None:
        seen[path].add((self.pages, self.pld.hex(), self.ald.hex(), self.tld.hex()))
        return compare_digests(self, expected)

    monkeypatch.setattr(Digests, "compare", recording)
    pages = -(-kernel.stat().st_size // 4096) + 1
    flags = {
        "fidelity": "bulk",
        "guest.memory_mib": str(pages // 256 + 4),
        "guest.per_l1": "1",
        "l1.count": "1",
        "run.reboots": "0",
        "run.deaths": "0",
    }
    for path in ("direct", "nested", "hosted"):
        outcome = compare(scenario_of(Path("real.img"), paths=path, **flags).scenario, Progress())
        (booted,) = outcome.results
        assert booted["path"] == path
        calls = {name: n for name, n in booted["phases"]["load"].items() if name.startswith("te_issued.")}
        assert sum(n for name, n in calls.items() if ".unpack." in name) == pages
        assert sum(n for name, n in calls.items() if ".verify." in name) == 1
        assert booted["phases"]["run"]["exits"] > 0, "it runs"
    wanted = {(pages, said["PLD"], said["ALD"], said["TLD"])}
    assert dict(seen) == dict.fromkeys(("direct", "nested", "hosted"), wanted)
