"""What reading documents, archives and words of others ended in: errors of libraries, in nobody's words."""

from __future__ import annotations

import bz2
import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import typer

from actors.commands.agent import address as agent_address
from actors.commands.hosted_serve import _tcp, read_policy
from actors.commands.report import _load
from actors.compare.bundle import write_text
from actors.compare.diff import BadBase, read_base
from actors.costs import UnreadableCosts
from actors.costs import load as load_costs
from actors.deployment.settings import read_deployment
from actors.given import BadDocument, from_json, from_toml, whole
from actors.hosted import _number
from actors.hosting.vmm import qemu
from actors.record import BadTranscript, read
from actors.scenario import BrokenScenario, UnreadableScenario, load
from protocol.hosting.machine import CreateGuest, Spec
from protocol.vsock.address import parse_address

# -- TOML and JSON -----------------------------------------------------------------------------------------

DOTS = ".".join("a" * 3000)
BEYOND = {
    "more digits than Python reads": "x = " + "9" * 5000,
    "more digits than Python prints": "x = 0x" + "f" * 5000,
    "a number of 65 bits": f"x = {1 << 64}",
    "a key with a table for each dot": f"x.{DOTS} = 1",
    "a heading with a table for each dot": f"[x.{DOTS}]\ny = 1",
    "headings that go on": "".join(f"[{'a.' * n}a]\n" for n in range(70)),
    "lists in lists": "x = " + "[" * 100 + "]" * 100,
}
READERS: dict[str, tuple[Callable[[Path], Any], tuple[type[Exception], ...]]] = {
    "scenario": (lambda path: load(str(path)), (UnreadableScenario, BrokenScenario)),
    "deployment": (read_deployment, (UnreadableScenario, BrokenScenario)),
    "costs": (load_costs, (UnreadableCosts,)),
    "policy": (read_policy, (typer.Exit,)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", BEYOND.values(), ids=BEYOND)
def test_what_no_reader_could_say_again_is_refused(reader: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    read_it, refusals = READERS[reader]
    with pytest.raises(refusals) as refused:
        read_it(path)
    assert str(refused.value)
    if isinstance(refused.value, BrokenScenario):
        assert refused.value.text()


def test_numbers_and_levels_that_can_be_are_read() -> None:
    assert from_toml(f"x = {(1 << 64) - 1}\ny = {-(1 << 63)}") == {"x": (1 << 64) - 1, "y": -(1 << 63)}
    note = "a word. " * 200 + "....." * 200 + "1.5, " * 200
    assert from_toml(f'x = "{note}"') == {"x": note}
    assert from_json("[" * 60 + "]" * 60)
    for wrong in ('"\\ud800"', '{"\\udfff": 1}', "9" * 40, "[" * 70 + "]" * 70, "[" * 100_000, b"\xff", "{"):
        with pytest.raises(BadDocument):
            from_json(wrong)


@pytest.mark.parametrize("name", ["a\\u0000b.toml", "/a\\u0000b"])
def test_a_deployment_names_no_scenario_with_a_nul(name: str, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(f'scenario = "{name}"')
    with pytest.raises(UnreadableScenario):
        read_deployment(tmp_path / "lab.toml")


def test_a_policy_with_a_list_for_a_call_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.toml").write_text('[[rule]]\nallow = true\ncall = [["start"]]\nsource = "*"')
    with pytest.raises(typer.Exit):
        read_policy(tmp_path / "policy.toml")
    assert "rule 0.call: allowed" in capsys.readouterr().err


def test_a_run_with_half_a_character_or_an_endless_number_is_refused(tmp_path: Path) -> None:
    right = {"results": [{"arch": "s390", "path": "nested", "depth": 1, "counts": {}, "phases": {}}]}
    for more in ('"\\ud800"', "1" + "0" * 400):
        (tmp_path / "run.json").write_text(json.dumps(right)[:-1] + f', "more": {more}}}')
        with pytest.raises(BadBase):
            read_base(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"load": {"path": "x", "latency": {"run": {"counts": [1' + "0" * 400 + "]}}}}"]
)
def test_a_load_test_that_cannot_be_read_is_left_out(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "load.json").write_text(text)
    assert _load(tmp_path / "load.json") is None
    assert "left out" in capsys.readouterr().err


def test_a_transcript_is_no_deeper_than_a_console_answers(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"format": ' + "[" * 400 + "]" * 400 + "}\n")
    with pytest.raises(BadTranscript, match="nested more than"):
        read(path)


def test_a_report_may_name_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    write_text(tmp_path / "report.html", "of \udcff")
    assert (tmp_path / "report.html").read_bytes() == b"of \\udcff"


# -- images for QEMU ---------------------------------------------------------------------------------------


def header(name: bytes, kind: bytes, size: bytes = b"%011o\0" % 0, link: bytes = b"") -> bytes:
    made = bytearray(512)
    made[: len(name)] = name
    made[100:148] = b"0000644\0" + b"0000000\0" * 2 + size + b"%011o\0" % 0
    made[156:157], made[157 : 157 + len(link)], made[257:265] = kind, link, b"ustar\00000"
    made[148:156] = b"        "
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def binary(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


ENDING = bytes(1024)
ARCHIVES = {
    "a header about a header without end": header(b"kernel", b"L") * 2000 + ENDING,
    "a name longer than an index": header(b"kernel", b"L", binary(1 << 63)) + ENDING,
    "a name longer than any memory": header(b"kernel", b"L", binary(1 << 62)) + ENDING,
    "a link to itself": header(b"kernel", b"2", link=b"kernel") + ENDING,
    "a link to nowhere": header(b"kernel", b"1", link=b"/etc/passwd") + ENDING,
    "a file of another name": header(b"../kernel", b"0") + ENDING,
    "the same file again and again": header(b"kernel", b"0") * 9 + ENDING,
    "compressed otherwise": bz2.compress(ENDING * 9)[:-20] + bytes(20),
}


@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_of_a_requester_is_refused_and_its_service_lives(data: bytes, tmp_path: Path) -> None:
    """Anything but a ValueError ended the service, and every other requester's guests with it."""
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(ValueError):
        qemu.unpack(tmp_path / "image", tmp_path)


@pytest.mark.parametrize("cmdline", [b"quiet\0", b"\xff", b"x" * 5000])
def test_a_command_line_is_a_text_that_a_kernel_can_have(cmdline: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image", "w") as archive:
        for name, data in (("kernel", b"k"), ("cmdline", cmdline)):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, BytesIO(data))
    with pytest.raises(ValueError):
        qemu.unpack(tmp_path / "image", tmp_path)


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"return": 5, "id": "nestbed"}'])
def test_what_is_no_answer_of_qemu_is_an_end_of_the_conversation(line: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        qemu._said(line)


# -- words -------------------------------------------------------------------------------------------------

NO_NUMBERS = ("\u00b2", "\u0663", "9" * 5000, "", "-1", "1_0")


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_digits_that_are_no_number_of_ours(text: str) -> None:
    """`isdigit` is true of some that `int` does not take, and of more than it takes."""
    assert whole(text, 1 << 32) is None
    for read_it in (lambda: _tcp(f"host:{text}", None), lambda: agent_address(f"host:{text}", "--listen")):
        with pytest.raises(typer.Exit):
            read_it()
    spec = Spec(bytes(32), 1, 1, labels={"guest": text})
    assert _number(CreateGuest(bytes(16), 3, spec, b"", 3)) == -1


def test_a_whole_number_is_below_its_bound() -> None:
    assert [whole("7", 8), whole("8", 8), whole("007", 8)] == [7, None, None]


@pytest.mark.parametrize("text", ["unix:/run/\0x", "tcp:a..b:5200", "tcp:\udcff:5200", "tcp:a\0b:5200"])
def test_an_address_that_no_socket_takes_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no name of a host|Unix socket|surrogates"):
        parse_address(text)


@pytest.mark.parametrize("compressed", ["", "gz", "bz2", "xz"])
def test_a_header_in_an_image_is_not_read_whole_whatever_length_it_says(
    tmp_path: Path, compressed: str
) -> None:
    """Compressed, some kilobytes would be as much memory as their author likes."""
    with tarfile.open(tmp_path / "image", f"w:{compressed}", format=tarfile.PAX_FORMAT) as archive:
        about = tarfile.TarInfo("kernel")
        about.pax_headers = {"comment": " " * (2 << 20)}
        archive.addfile(about)
    with pytest.raises(ValueError, match="a header of more than 1048576 bytes"):
        qemu.unpack(tmp_path / "image", tmp_path)


@pytest.mark.parametrize("compressed", ["", "gz", "bz2", "xz"])
def test_an_image_comes_out_as_it_went_in(tmp_path: Path, compressed: str) -> None:
    parts = {"kernel": bytes(range(256)) * 9000, "cmdline": b"quiet"}
    with tarfile.open(tmp_path / "image", f"w:{compressed}") as archive:
        for name, data in parts.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, BytesIO(data))
    qemu.unpack(tmp_path / "image", tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in parts} == parts
