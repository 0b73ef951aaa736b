"""`nestbed measure` of firmware: launched on every path, with the digest that the guest's owner computes."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app

try:  # the program that owners of guests use
    from sevsnpmeasure.guest import calc_launch_digest
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vcpu_types import CPU_SIGS
except ImportError:
    calc_launch_digest = None

PAGE = 4096
OVMF = Path(os.environ.get("NESTBED_OVMF", "/usr/share/ovmf/OVMF.fd"))
FOOTER, RESET, HASHES, METADATA = (
    "96b582de-1fb2-45f7-baea-a366c55a082d",
    "00f771de-1a7e-4fcb-890e-68c77e2fb44e",
    "7255371f-3a3b-4b04-927b-1da6efa8d454",
    "dc886566-984a-4798-a75e-5585a7bf67cc",
)
SECTIONS = ((0x80_0000, 2, 1), (0x80_D000, 1, 2), (0x80_E000, 1, 3), (0x81_1000, 1, 0x10))
WAYS = [["direct"], ["nested"], ["nested", "--depth", "2"], ["hosted"]]


def entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + UUID(guid).bytes_le


def firmware(pages: int = 3) -> bytes:
    """A small firmware that says of itself what OVMF does."""
    listed = b"".join(struct.pack("<III", gpa, count * PAGE, kind) for gpa, count, kind in SECTIONS)
    metadata = b"ASEV" + struct.pack("<III", 16 + len(listed), 1, len(SECTIONS)) + listed
    at = 0x200  # of the metadata, from the end
    table = entry(RESET, (0x80_B004).to_bytes(4, "little")) + entry(
        HASHES, (0x81_1400).to_bytes(4, "little") + (0x400).to_bytes(4, "little")
    )
    table += entry(METADATA, at.to_bytes(4, "little"))
    table += struct.pack("<H", len(table) + 18) + UUID(FOOTER).bytes_le
    image = bytearray(hashlib.shake_256(b"firmware").digest(pages * PAGE))
    image[-32 - len(table) : -32] = table
    image[len(image) - at : len(image) - at + len(metadata)] = metadata
    return bytes(image)


def measure(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["measure", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})


def digest(result: Result) -> str:
    assert result.exit_code == exit_codes.OK, result.output
    return result.stdout.splitlines()[-1]


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small.fd").write_bytes(firmware())
    return str(tmp_path / "small.fd")


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
@pytest.mark.slow
def test_every_path_has_the_digest_of_plain_sev(small: str, way: list[str]) -> None:
    """SEV measures the image and nothing else, wherever it lies."""
    found = measure("--arch", "sev", "--firmware", small, "--path", *way)
    assert digest(found) == hashlib.sha256(firmware()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["snp", "sev-es"])
def test_every_path_has_the_same_digest(small: str, arch: str) -> None:
    given = ["--arch", arch, "--firmware", small, "--vcpus", "3", "--vcpu-type", "EPYC-Milan"]
    found = {digest(measure(*given, "--path", *way)) for way in WAYS}
    assert len(found) == 1
    assert len(found.pop()) == (96 if arch == "snp" else 64)


@pytest.mark.slow
@pytest.mark.skipif(calc_launch_digest is None, reason="sev-snp-measure is not installed")
@pytest.mark.parametrize("with_kernel", [False, True])
@pytest.mark.parametrize(("arch", "mode"), [("snp", "SEV_SNP"), ("sev", "SEV"), ("sev-es", "SEV_ES")])
def test_the_digest_is_that_of_the_owners_program(
    small: str, tmp_path: Path, arch: str, mode: str, with_kernel: bool
) -> None:
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"a kernel")
    initrd.write_bytes(b"an initrd")
    given = ["--arch", arch, "--firmware", small, "--vcpus", "2", "--vcpu-type", "EPYC-Genoa"]
    files = ("", "", "")
    if with_kernel:
        files = (str(kernel), str(initrd), "console=ttyS0")
        given += ["--kernel", files[0], "--initrd", files[1], "--append", files[2]]
    expected = calc_launch_digest(SevMode[mode], 2, CPU_SIGS["EPYC-Genoa"], small, *files, 1)
    assert digest(measure(*given)) == expected.hex()


@pytest.mark.slow
@pytest.mark.skipif(calc_launch_digest is None, reason="sev-snp-measure is not installed")
@pytest.mark.skipif(not OVMF.exists(), reason="no real firmware here (Debian: apt install ovmf)")
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_real_firmware_has_the_digest_of_the_owners_program(way: list[str]) -> None:
    expected = calc_launch_digest(SevMode.SEV_SNP, 4, CPU_SIGS["EPYC-v4"], str(OVMF), "", "", "", 1)
    given = ["--arch", "snp", "--firmware", str(OVMF), "--vcpus", "4", "--vcpu-type", "EPYC-v4"]
    assert digest(measure(*given, "--path", *way)) == expected.hex()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "snp"], "give --firmware FILE"),
        (["--arch", "snp", "--firmware", "nowhere"], "No such file"),
        (["--arch", "snp", "--firmware", "FILE", "--vcpu-type", "486"], "allowed: EPYC,"),
        (["--arch", "snp", "--firmware", "ODD"], "whole pages"),
        (["--arch", "snp", "--firmware", "FILE", "--append", "quiet"], "go with --kernel"),
        (["--arch", "s390", "--firmware", "FILE"], "--firmware: s390 measures images"),
        (["--arch", "vax", "FILE"], "no such architecture"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    small: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "odd").write_bytes(b"odd")
    real = {"FILE": small, "ODD": str(tmp_path / "odd")}
    result = measure(*(real.get(each, each) for each in arguments))
    assert result.exit_code == exit_codes.USAGE
    assert said in result.output


@pytest.mark.slow
def test_firmware_that_cannot_start_other_vcpus_fails_with_the_reason(tmp_path: Path) -> None:
    """Nothing in it says where: with one VCPU it can be launched."""
    (tmp_path / "bare.fd").write_bytes(bytes(range(256)) * 16)
    given = ["--arch", "sev-es", "--firmware", str(tmp_path / "bare.fd")]
    assert len(digest(measure(*given))) == 64
    failed = measure(*given, "--vcpus", "2")
    assert failed.exit_code == exit_codes.FAILED
    assert "it was not built for SEV-ES" in failed.output
