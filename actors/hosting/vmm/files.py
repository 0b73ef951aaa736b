"""What lies in a guest's directory, and who its process is.

The directory is made before anything of the guest is, and goes after all of it: whatever happens between, the
next life of the service finds it.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protocol.hosting.evidence import Measured

EXIT_KILLED = 137
SIGNALLED = 128
SPAWNING = "spawning"
ANSWERED = "answered"
GONE = (FileNotFoundError, NotADirectoryError, ProcessLookupError)  # what any other error does not say


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """One guest's directory, named by its context id."""

    path: Path

    def make(self, child: bytes, cid: int, image: bytes, facts: dict[str, object]) -> None:
        """Make the directory with all that the VMM reads. Raises OSError."""
        self.path.mkdir(mode=0o700)
        (self.path / "image").write_bytes(image)
        lines = {"child": child.hex(), "cid": cid} | facts
        self._replace("guest.facts", "".join(f"{name} {value}\n" for name, value in lines.items()))

    def facts(self) -> dict[str, str]:
        """What `make` was told; empty where it did not come so far. Raises OSError: that cannot be said."""
        try:
            text = (self.path / "guest.facts").read_text()
        except GONE:
            return {}
        return dict(line.split(" ", 1) for line in text.splitlines())

    def note_spawning(self) -> None:
        """Say that a process is about to be made: whoever comes later looks for it."""
        self._replace("process", SPAWNING)

    def note_process(self, pid: int) -> None:
        self._replace("process", f"{pid} {_born(pid)}")

    def process(self) -> int | None:
        """The guest's process, if it lives: a number that was given to another one since is not it.

        One that was made and not noted yet when the service died is found by the directory that it was given.
        Raises OSError: nothing can be said.
        """
        try:
            text = (self.path / "process").read_text()
        except GONE:
            return None
        if text == SPAWNING:
            return _named_by(str(self.path))
        try:
            pid, born = text.split()
        except ValueError:
            return None
        return int(pid) if born != "0" and _born(int(pid)) == born else None

    def note_end(self, status: int) -> None:
        """Keep how the process ended, where the guest has not said so itself."""
        code = os.waitstatus_to_exitcode(status)
        if not (self.path / "exit").exists() and self.path.exists():
            self._replace("exit", str(code if code >= 0 else SIGNALLED - code))

    def exit(self) -> int:
        """With which status the guest ended; 137 where it could not say so."""
        try:
            return int((self.path / "exit").read_text())
        except (OSError, ValueError):
            return EXIT_KILLED

    def note_ready(self, word: bytes, answered: bool = False) -> None:
        """Keep what the guest announced: before it is answered, as it may not say it twice, and after."""
        self._replace("ready", f"{word.hex()} {ANSWERED if answered else ''}")

    def ready(self) -> tuple[bytes, bool]:
        """What the guest announced in this boot, empty if nothing yet; and whether that was answered."""
        try:
            word, _, rest = (self.path / "ready").read_text().partition(" ")
            return bytes.fromhex(word), rest == ANSWERED
        except (OSError, ValueError):
            return b"", False

    def forget_ready(self) -> None:
        (self.path / "ready").unlink(missing_ok=True)

    def forget_exit(self) -> None:
        (self.path / "exit").unlink(missing_ok=True)

    def measured(self) -> Measured:
        """What was loaded, and what the guest had bound to it since."""
        bound = self.path / "bound"
        guest_data = bound.read_bytes() if bound.exists() else b""
        return Measured(bytes.fromhex((self.path / "measurement").read_text()), None, guest_data)

    def socket(self, name: str) -> str:
        return str(self.path / name)

    def kill(self) -> None:
        """End the process as a crash does."""
        pid = self.process()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _replace(self, name: str, text: str) -> None:
        beside = self.path / f"{name}.new"
        beside.write_text(text)
        beside.replace(self.path / name)


def _born(pid: int) -> str:
    """When the kernel started process `pid`, in ticks; "0" if it is gone or waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except GONE:
        return "0"
    return "0" if fields[0] in "ZX" else fields[19]


def _named_by(directory: str) -> int | None:
    """The living process that has `directory`, or something in it, among its arguments."""
    whole, within = directory.encode(), f"{directory}/".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except (*GONE, PermissionError):
            continue
        pid = int(path.parent.name)
        if any(each == whole or within in each for each in arguments) and _born(pid) != "0":
            return pid
    return None
