"""How the service runs QEMU, under software emulation or KVM, and the command lines of real secure guests.

A guest's image is a tar archive with `kernel` and, if it needs them, `initrd` and `cmdline`. In the guest's
directory QEMU serves `control` (QMP), `console` (the first serial port) and `channel` (the second one): the
guest announces itself on the latter, 32 hexadecimal digits that stand behind `--` on its command line and one
byte, and reads that byte back. The port is then its one channel.

The real ones need a machine with the hardware, an image with the owner's part in it (an encrypted one on s390
and POWER), and firmware that measures. Their options are those of QEMU's documentation; here they are shown
and not run.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import trio

from actors.given import BadDocument, from_json
from actors.hosting.vmm.files import GuestFiles
from actors.runtime.transport.address import connect
from protocol.vsock.address import Address

MEMBERS = ("kernel", "initrd", "cmdline")
MEMBER_BYTES = 1 << 30
ARCHIVE_BYTES = (len(MEMBERS) + 1) * MEMBER_BYTES  # with room for headers
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma"}
PIECE_BYTES = 1 << 20
CMDLINE_BYTES = 4096  # Linux takes 2048 or 4096
QMP_S = 5.0
LINE_BYTES = 64 * 1024
# What reading an archive ends in: compressed ones have their own words, a header says any length, and may be
# about the next one without end.
NO_TAR = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OverflowError, MemoryError, RecursionError)
ANSWER_TO = "nestbed"  # the id of our one command


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of QEMU machine: program, machine type, and what makes it a secure one."""

    program: str
    accel: str
    machine: str
    secure: tuple[str, ...] = ()
    cpu: str = ""
    console: str = "console=ttyS0"
    note: str = ""


MACHINES: Mapping[str, Machine] = {
    "tcg": Machine("qemu-system-x86_64", "tcg", "pc"),
    "kvm": Machine("qemu-system-x86_64", "kvm", "pc", cpu="host"),
    "sev-snp-guest": Machine(
        "qemu-system-x86_64",
        "kvm",
        "q35,confidential-guest-support=te0,memory-backend=ram0,vmport=off",
        (
            "-object",
            "memory-backend-memfd,id=ram0,size={memory_mib}M,share=true,prealloc=false",
            "-object",
            "sev-snp-guest,id=te0,cbitpos=51,reduced-phys-bits=1,policy={policy:#x},kernel-hashes=on",
            "-bios",
            "OVMF.amdsev.fd",
        ),
        cpu="EPYC-v4",
        note="policy 0: 0x30000, the least one; firmware with the table of hashes",
    ),
    "tdx-guest": Machine(
        "qemu-system-x86_64",
        "kvm",
        "q35,kernel-irqchip=split,confidential-guest-support=te0,memory-backend=ram0",
        (
            "-object",
            "memory-backend-ram,id=ram0,size={memory_mib}M",
            "-object",
            "tdx-guest,id=te0",
            "-bios",
            "OVMF.inteltdx.fd",
        ),
        cpu="host",
    ),
    "s390-pv-guest": Machine(
        "qemu-system-s390x",
        "kvm",
        "s390-ccw-virtio,confidential-guest-support=te0",
        ("-object", "s390-pv-guest,id=te0"),
        console="",
        note="the kernel is an image of genprotimg: initrd and command line are inside, encrypted",
    ),
    "pef-guest": Machine(
        "qemu-system-ppc64",
        "kvm",
        "pseries,confidential-guest-support=te0",
        ("-object", "pef-guest,id=te0"),
        console="console=hvc0",
        note="the initrd carries the ESM blob",
    ),
}
LEAST_SNP_POLICY = 0x30000


def command(kind: str, directory: Path, facts: Mapping[str, str], members: Mapping[str, bool]) -> list[str]:
    """Return the command line of a guest of `kind`, one of MACHINES, whose files are in `directory`.

    `facts`: memory_mib, vcpus, nonce and policy, as text; `members` which parts the image has.
    """
    machine = MACHINES[kind]
    policy = int(facts.get("policy", "0")) or LEAST_SNP_POLICY
    fill = {"memory_mib": facts["memory_mib"], "policy": policy}
    line = [machine.program, "-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-accel", machine.accel, "-machine", machine.machine]
    line += ["-cpu", machine.cpu] if machine.cpu else []
    line += ["-m", f"{facts['memory_mib']}M", "-smp", facts["vcpus"]]
    line += [option.format(**fill) for option in machine.secure]
    line += ["-kernel", str(directory / "kernel")]
    if kind != "s390-pv-guest":
        line += ["-initrd", str(directory / "initrd")] if members.get("initrd") else []
        text = (directory / "cmdline").read_text("utf-8").strip() if members.get("cmdline") else ""
        line += ["-append", " ".join(filter(None, (machine.console, text, "--", facts["nonce"])))]
    if kind == "s390-pv-guest":
        line += _sclp(directory)
    elif kind == "pef-guest":
        line += _spapr(directory)
    else:
        for name in ("console", "channel"):
            line += ["-chardev", _listening(directory, name), "-serial", f"chardev:{name}"]
    line += ["-chardev", _listening(directory, "control"), "-mon", "chardev=control,mode=control"]
    return line


def _listening(directory: Path, name: str) -> str:
    """A socket of QEMU's. Nothing boots before the console is read: what is written to nobody is lost."""
    wait = "on" if name == "console" else "off"
    return f"socket,id={name},path={directory / name},server=on,wait={wait}"


def _sclp(directory: Path) -> list[str]:
    """s390 has its console on the SCLP, and a second one for the channel."""
    return [
        *("-chardev", _listening(directory, "console"), "-device", "sclpconsole,chardev=console"),
        *("-chardev", _listening(directory, "channel"), "-device", "sclplmconsole,chardev=channel"),
    ]


def _spapr(directory: Path) -> list[str]:
    """POWER has virtual terminals."""
    return [
        *("-chardev", _listening(directory, "console"), "-device", "spapr-vty,chardev=console"),
        *("-chardev", _listening(directory, "channel"), "-device", "spapr-vty,chardev=channel"),
    ]


class Qemu:
    """A `Vmm` that is a QEMU process. `program` is where it is, if not on the path."""

    dials = False

    def __init__(self, kind: str = "tcg", program: str = "") -> None:
        self._kind = kind
        self._program = program

    def prepare(self, files: GuestFiles) -> None:
        """Take the image apart. Raises OSError, ValueError: it is not one for QEMU."""
        unpack(files.path / "image", files.path)

    def command(self, files: GuestFiles) -> list[str]:
        there = {name: (files.path / name).exists() for name in MEMBERS}
        made = command(self._kind, files.path, files.facts(), there)
        return [self._program or made[0], *made[1:]]

    async def entered(self, files: GuestFiles) -> bool:
        answer = await self._ask(files, "query-status")
        return bool(answer.get("running"))

    async def stop(self, files: GuestFiles) -> None:
        await self._ask(files, "system_powerdown")

    async def reset(self, files: GuestFiles) -> None:
        await self._ask(files, "system_reset")

    async def dump(self, files: GuestFiles) -> None:
        target = f"file:{files.socket('dump')}"
        await self._ask(files, "dump-guest-memory", paging=False, protocol=target)

    def channel(self, files: GuestFiles, port: int) -> Address:
        return Address("unix", files.socket("channel"))

    async def _ask(self, files: GuestFiles, execute: str, **arguments: object) -> dict[str, object]:
        """One command of QMP. Raises OSError where it is refused or not answered."""
        stream = await connect(Address("unix", files.socket("control")))
        async with stream:
            with trio.fail_after(QMP_S), suppress(trio.BrokenResourceError):
                await stream.send_all(b'{"execute": "qmp_capabilities"}\n')
                said = {"execute": execute, "arguments": arguments, "id": ANSWER_TO}
                await stream.send_all(json.dumps(said).encode() + b"\n")
                buffer = b""
                while data := await stream.receive_some(LINE_BYTES):
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        answer = _said(line)
                        if answer.get("id") == ANSWER_TO:
                            if "return" not in answer:
                                raise OSError(f"QEMU: {answer.get('error')}"[:200])
                            returned: dict[str, object] = answer["return"]
                            return returned
        raise ConnectionResetError("QEMU ended the conversation")


def _said(line: bytes) -> dict[str, Any]:
    """One line of QEMU's, which its guest may have got hold of. Raises OSError."""
    try:
        answer = from_json(line)
    except BadDocument as error:
        raise ConnectionResetError(f"QEMU: {error}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("return", {}), dict):
        raise ConnectionResetError("QEMU: no answer of QMP")
    return answer


def unpack(image: Path, into: Path) -> None:
    """Write the members of an image beside it. Raises OSError, ValueError: it is not one for QEMU."""
    found: list[str] = []
    try:
        with _opened(image) as file, tarfile.open(fileobj=_InPieces(file), mode="r:") as archive:
            for member in archive:
                found.append(member.name)
                if member.name not in MEMBERS or len(found) > len(MEMBERS):
                    break
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or not 0 <= member.size <= MEMBER_BYTES:
                    raise ValueError(f"{member.name} is no file, or larger than {MEMBER_BYTES} bytes")
                if member.name == "cmdline":
                    _is_cmdline(content.read(CMDLINE_BYTES + 1))
                    content.seek(0)
                with (into / member.name).open("wb") as out:
                    shutil.copyfileobj(content, out)
    except NO_TAR as error:
        raise ValueError(f"no tar archive: {error!r}") from error
    except OSError as error:
        if error.errno is None:  # of a compressed one, and none of the disk
            raise ValueError(f"no tar archive: {error!r}") from error
        raise
    if "kernel" not in found or not set(found) <= set(MEMBERS) or len(found) > len(MEMBERS):
        raise ValueError(f"an image for QEMU has kernel, initrd and cmdline, not {', '.join(found)[:80]!r}")


def _opened(image: Path) -> IO[bytes]:
    """The archive, as it is or in one of the compressions that Python knows."""
    with image.open("rb") as file:
        begin = file.read(max(map(len, COMPRESSED)))
    for magic, module in COMPRESSED.items():
        if begin.startswith(magic):
            opened: IO[bytes] = import_module(module).open(image)
            return opened
    return image.open("rb")


class _InPieces(io.RawIOBase):
    """A file that nobody reads at one go: a header may say any length, and would be read whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= PIECE_BYTES:
            raise tarfile.ReadError(f"a header of more than {PIECE_BYTES} bytes")
        return self._file.read(size)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Where no archive can be, the disk is not asked: each kind says something else of it."""
        if whence == os.SEEK_SET and not 0 <= offset <= ARCHIVE_BYTES:
            raise tarfile.ReadError(f"it leads to byte {offset}, of {ARCHIVE_BYTES} at most")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _is_cmdline(data: bytes) -> None:
    if len(data) > CMDLINE_BYTES or b"\0" in data:
        raise ValueError(f"cmdline: a kernel's command line has at most {CMDLINE_BYTES} bytes, none is 0")
    data.decode()


def pack(into: Path, kernel: Path, initrd: Path | None = None, cmdline: str = "") -> None:
    """Make an image for QEMU. Raises OSError."""
    with tarfile.open(into, "w") as archive:
        archive.add(kernel.resolve(), "kernel")
        if initrd is not None:
            archive.add(initrd.resolve(), "initrd")
        if cmdline:
            data = cmdline.encode()
            info = tarfile.TarInfo("cmdline")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
