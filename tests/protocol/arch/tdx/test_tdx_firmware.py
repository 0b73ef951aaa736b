"""Virtual firmware: what a TDVF says of itself, and the measurement of it, computed here once more."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from protocol.arch.tdx import firmware
from protocol.arch.tdx.comparison import COMPARISON
from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.effects import run
from protocol.plan import operations as op

PAGE = 4096
FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
OTHER = UUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294").bytes_le
SECTIONS = (
    (2 * PAGE, 2 * PAGE, 0xFFFFE000, 2 * PAGE, 0, 1),  # firmware volume, measured
    (PAGE, PAGE, 0xFFFFC000, 2 * PAGE, 1, 0),  # variables, longer than what is in the file
    (0, 0, 0x809000, PAGE, 2, 0),  # hand-off block
    (0, 0, 0x810000, 3 * PAGE, 3, 0),  # temporary memory
    (0, 0, 0x900000, PAGE, 3, 2),  # added by the guest later
)


def made(sections: tuple[tuple[int, ...], ...] = SECTIONS, **patches: bytes) -> bytes:
    """A small TDVF: content, the descriptor at the end of its second page, the table behind everything."""
    image = bytearray(hashlib.shake_256(b"firmware").digest(4 * PAGE))
    descriptor = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(sections), 1, len(sections))
    descriptor += b"".join(struct.pack("<IIQQII", *section) for section in sections)
    at = 3 * PAGE
    image[at : at + len(descriptor)] = descriptor
    table = struct.pack("<IH16s", 0, 22, OTHER) + struct.pack("<IH16s", len(image) - at, 22, METADATA)
    table += struct.pack("<H16s", len(table) + 18, FOOTER)
    image[-32 - len(table) : -32] = table
    for name, patch in patches.items():
        place = int(name.removeprefix("at_"))
        image[place : place + len(patch)] = patch
    return bytes(image)


def measured(image: bytes) -> bytes:
    """MRTD by the rules of section 6.4, in the order of the descriptor."""
    end = len(image) - 32
    (left,) = struct.unpack_from("<H", image, end - 18)
    table, offset = image[end - left : end - 18], 0
    while table:
        length, guid = struct.unpack("<H16s", table[-18:])
        if guid == METADATA:
            (offset,) = struct.unpack_from("<I", table, len(table) - length)
        table = table[:-length]
    at = len(image) - offset
    count = struct.unpack_from("<4sIII", image, at)[3]
    digest = hashlib.sha384()
    for number in range(count):
        start, raw, address, size, kind, attributes = struct.unpack_from(
            "<IIQQII", image, at + 16 + 32 * number
        )
        if kind > 3 or attributes & 2:
            continue
        content = image[start : start + raw].ljust(size, b"\0")
        for page in range(0, size, PAGE):
            digest.update(
                (b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", address + page)).ljust(128, b"\0")
            )
            for chunk in range(page, page + PAGE, 256) if attributes & 1 else ():
                block = b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", address + chunk)
                digest.update(block.ljust(128, b"\0") + content[chunk : chunk + 256])
    return digest.digest()


def of_a_td(image: bytes, depth: int) -> bytes:
    """MRTD as the module has it after a load by a host at `depth`: it asks by TDH.MNG.RD."""
    rig = compose(PROFILES["small"], depth, memory_bytes=128 * MIB)
    host = Host(rig.seats[0].level, rig.seats[0].cpus, depth=depth, image=image)
    for operation in (op.BootHost(), op.Create(0, memory_mib=32, vcpus=1), op.Load(0)):
        run(host.perform(operation))
    words = []
    for number in range(6):
        out: Any = run(host.module.call("mng_rd", rcx=host.guests[0].tdr, rdx=0x1310000300000000 + number))
        words.append(struct.pack("<Q", out[8]))
    run(host.perform(op.Destroy(0)))
    return b"".join(words)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_small_firmwares_measurement(depth: int) -> None:
    image = made()
    assert of_a_td(image, depth) == measured(image) == firmware.mrtd(image, 0)


def real() -> bytes:
    """Debian's OVMF, which is a TDVF, too."""
    path = Path(os.environ.get("NESTBED_OVMF", "/usr/share/ovmf/OVMF.fd"))
    if not path.exists():
        pytest.skip("there is no OVMF.fd here (Debian: apt install ovmf, or NESTBED_OVMF)")
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_measurement_of_real_firmware(depth: int) -> None:
    image = real()
    assert len(firmware.sections(image)) >= 4
    assert of_a_td(image, depth) == measured(image)


def asked(*arguments: str) -> Result:
    given = ["measure", "--arch", "tdx", "--firmware", *arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("vcpus", ["1", "3"])
@pytest.mark.parametrize(
    "way", [["direct"], ["nested"], ["nested", "--depth", "2"], ["hosted"]], ids=" ".join
)
def test_measure_launches_it_on_every_path(tmp_path: Path, way: list[str], vcpus: str) -> None:
    (tmp_path / "small.fd").write_bytes(made())
    result = asked(str(tmp_path / "small.fd"), "--vcpus", vcpus, "--path", *way)
    assert result.exit_code == exit_codes.OK, result.output
    assert result.stdout.splitlines()[-1] == measured(made()).hex()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--vcpu-type", "EPYC-v4"), "no model of VCPUs"),
        (("--kernel", "FILE"), "firmware measures it in RTMRs"),
    ],
)
def test_what_no_launch_measures_is_a_usage_error(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    (tmp_path / "small.fd").write_bytes(made())
    file = str(tmp_path / "small.fd")
    result = asked(file, *(file if each == "FILE" else each for each in more))
    assert result.exit_code == exit_codes.USAGE
    assert said in result.output


def test_measure_takes_firmware_alone(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(bytes(PAGE))
    result = asked(str(tmp_path / "plain"))
    assert result.exit_code == exit_codes.USAGE
    assert "no TDVF" in result.output


def test_pages_in_their_order() -> None:
    pages = list(firmware.placed(made(), 0))
    assert [hex(page.gpa) for page in pages] == [
        *("0xffffe000", "0xfffff000", "0xffffc000", "0xffffd000"),
        *("0x809000", "0x810000", "0x811000", "0x812000"),
    ]
    assert [page.measured for page in pages] == [True, True, *[False] * 6]
    assert pages[3].data == bytes(PAGE)
    assert pages[0].data == made()[2 * PAGE : 3 * PAGE]


def test_any_other_file_is_pages_in_a_row() -> None:
    plain = b"kernel".ljust(2 * PAGE, b"\0")
    assert firmware.sections(plain) == ()
    assert [(page.gpa, page.measured) for page in firmware.placed(plain, 0x10000)] == [
        (0x10000, True),
        (0x11000, True),
    ]


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ((0, 0, 0x1001, PAGE, 3, 0), "whole pages"),
        ((0, 0, 0x1000, PAGE + 1, 3, 0), "whole pages"),
        ((0, 0, 1 << 47, PAGE, 3, 0), "whole pages"),
        ((0, 2 * PAGE, 0x1000, PAGE, 0, 1), "its bytes"),
        ((4 * PAGE, PAGE, 0x1000, PAGE, 0, 1), "its bytes"),
        ((0, 0, 0, 65 << 20, 3, 0), "more than"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section: tuple[int, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        firmware.sections(made((section,)))


@pytest.mark.parametrize(
    ("patches", "what"),
    [
        ({"at_12288": b"NONE"}, "allowed: b'TDVF'"),
        ({"at_12296": b"\x02"}, "version 2"),
        ({"at_12300": b"\xff\xff"}, "sections"),
        ({"at_12292": b"\x10\0"}, "sections"),
        ({"at_16312": b"\xff\xff\0\0"}, "does not lie in the file"),
        ({"at_16312": b"\4\0\0\0"}, "does not lie in the file"),
    ],
)
def test_a_descriptor_that_cannot_be_is_refused(patches: dict[str, bytes], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        firmware.sections(made(**patches))


@pytest.mark.parametrize(
    "patches",
    [
        {"at_16316": b"\5\0"},  # an entry that is shorter than its own head
        {"at_16316": b"\xff\0"},  # or begins before the table does
        {"at_16318": OTHER},  # no entry is the one
    ],
    ids=["short", "long", "other"],
)
def test_a_table_that_does_not_lead_to_a_descriptor_makes_no_tdvf(patches: dict[str, bytes]) -> None:
    assert firmware.sections(made(**patches)) == ()
    assert firmware.sections(made())


# -- as a comparison asks for it --------------------------------------------------------------------

TDVF = made()


def test_firmware_is_an_image_as_it_is() -> None:
    assert COMPARISON.firmware(TDVF, None, None, b"", "") == TDVF
    assert COMPARISON.image(1, 4, TDVF) == TDVF


def test_an_image_of_so_many_pages_is_drawn_from_its_seed() -> None:
    one, other = COMPARISON.image(1, 4, None), COMPARISON.image(2, 4, None)
    assert (len(one), len(other), one == other) == (4 * 4096, 4 * 4096, False)
    assert COMPARISON.image(1, 4, None) == one


@pytest.mark.parametrize(
    ("vcpu_type", "kernel", "initrd", "command_line", "data", "said"),
    [
        ("EPYC-v4", None, b"", "", TDVF, "--vcpu-type: no model of VCPUs"),
        (None, b"kernel", b"", "", TDVF, "--kernel: firmware measures it in RTMRs"),
        (None, None, b"initrd", "", TDVF, "--kernel: firmware measures it in RTMRs"),
        (None, None, b"", "quiet", TDVF, "--kernel: firmware measures it in RTMRs"),
        (None, None, b"", "", bytes(8192), "no TDVF: nothing in it says what goes where"),
    ],
)
def test_what_no_measurement_of_a_launch_holds_is_refused(
    vcpu_type: str | None, kernel: bytes | None, initrd: bytes, command_line: str, data: bytes, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        COMPARISON.firmware(data, vcpu_type, kernel, initrd, command_line)


def test_firmware_that_cannot_be_loaded_is_no_image() -> None:
    broken = made(at_12288=b"TDVF" + bytes(12))
    with pytest.raises(ValueError, match="TDVF"):
        COMPARISON.image(1, 1, broken)
