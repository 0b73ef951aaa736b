"""How the service runs an emulated guest: which command, and what is said to its control socket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from actors.hosting.vmm.files import GuestFiles
from actors.runtime.transport.address import connect
from protocol.vsock.address import Address

ROOT = Path(__file__).resolve().parents[3]
CONTROL_BYTES = 256


class Vmm(Protocol):
    """A kind of virtual machine monitor. What it is told raises OSError where it does not answer.

    `dials`: its guests announce their readiness by dialling their host, not on their channel.
    """

    dials: bool

    def prepare(self, files: GuestFiles) -> None:
        """Make ready what `command` needs of the image. Raises OSError, ValueError: it is not one."""
        ...

    def command(self, files: GuestFiles) -> list[str]:
        """The program and its arguments."""
        ...

    async def entered(self, files: GuestFiles) -> bool:
        """Whether the guest runs by now."""
        ...

    async def stop(self, files: GuestFiles) -> None:
        """Ask the guest to end."""
        ...

    async def reset(self, files: GuestFiles) -> None:
        """Have the guest boot again."""
        ...

    async def dump(self, files: GuestFiles) -> None:
        """Write a dump of the running guest to the file `dump`."""
        ...

    def channel(self, files: GuestFiles, port: int) -> Address:
        """Where a port of the guest is reached."""
        ...


class Emulated:
    """A `Vmm` whose guest is a small program (`guest.py`)."""

    dials = True

    def prepare(self, files: GuestFiles) -> None:
        pass

    def command(self, files: GuestFiles) -> list[str]:
        program = Path(__file__).with_name("guest.py")
        return [sys.executable, "-I", "-S", str(program), str(ROOT), str(files.path)]

    async def entered(self, files: GuestFiles) -> bool:
        return await self._say(files, "state") == "running"

    async def stop(self, files: GuestFiles) -> None:
        await self._say(files, "stop")

    async def reset(self, files: GuestFiles) -> None:
        await self._say(files, "reset")

    async def dump(self, files: GuestFiles) -> None:
        if await self._say(files, "dump") != "ok":
            raise ConnectionResetError("the guest was not dumped")

    def channel(self, files: GuestFiles, port: int) -> Address:
        return Address("hybrid", files.socket("vsock"), port)

    async def _say(self, files: GuestFiles, line: str) -> str:
        stream = await connect(Address("unix", files.socket("control")))
        async with stream:
            await stream.send_all(line.encode() + b"\n")
            return bytes(await stream.receive_some(CONTROL_BYTES)).decode().strip()
