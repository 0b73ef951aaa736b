"""The runtime directory of a deployment: who is where, under which epoch, and who may come in.

It is the owner's alone (0700). One supervisor holds its lock; what an earlier one left behind (sockets of
dead parts, files half written) is cleared before anything starts. An epoch is one life of a part: it only
grows, also over restarts of the supervisor, because whoever speaks under a lower one is fenced.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

SOCKET_BYTES = 107  # of a path of a Unix socket


class Unusable(Exception):
    """The directory cannot be used: the environment's fault. The message says why."""


def default_place(name: str, environment: Mapping[str, str]) -> Path:
    """Where a deployment of that name lives if nobody says."""
    base = environment.get("NESTBED_DIRECTORY")
    if base:
        return Path(base)
    run = environment.get("XDG_RUNTIME_DIR")
    folder = Path(run) / "nestbed" if run else Path(tempfile.gettempdir()) / f"nestbed-{os.getuid()}"
    return folder / name


class Place:
    """Paths below one directory. Making one touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def control(self, part: str) -> Path:
        """Where a part answers."""
        return self.root / f"{part}.sock"

    def seat(self, machine: str) -> Path:
        """Where a machine waits for its L1s."""
        return self.root / f"{machine}.seats"

    def hosting(self, machine: str, requester: str = "") -> Path:
        """Where a machine serves its hosting broker: to each L1 on a path of its own, to others without."""
        return self.root / f"{machine}{'.' if requester else ''}{requester}.hosting"

    def channels(self, machine: str, cid: object) -> Path:
        """Where a machine opens the channels of the requester with that context id."""
        return self.root / f"{machine}.{cid}.channels"

    def host_key(self, machine: str) -> Path:
        """The public key by which the evidence of a machine's present life is verified."""
        return self.root / f"{machine}.pub"

    def log(self, part: str) -> Path:
        return self.root / f"{part}.log"

    @property
    def targets(self) -> Path:
        """What Prometheus reads (`file_sd`)."""
        return self.root / "targets.json"

    @property
    def journal(self) -> Path:
        """The load's account."""
        return self.root / "load.journal"

    # -- making it ours

    def prepare(self, parts: tuple[str, ...] = ()) -> None:
        """Make the directory, and see that it is ours alone. Raises Unusable."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self.root.lstat()
        except OSError as error:
            raise Unusable(f"{self.root}: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise Unusable(f"{self.root}: it belongs to somebody else")
        if found.st_mode & 0o077:
            raise Unusable(
                f"{self.root}: others may look into it; allowed: chmod 700, or another --directory"
            )
        longest = max((len(os.fsencode(self.hosting(part, "client"))) for part in parts), default=0)
        if longest > SOCKET_BYTES:
            raise Unusable(
                f"{self.root}: too long for sockets ({longest} bytes; allowed: {SOCKET_BYTES}); "
                "give a shorter --directory"
            )

    def lock(self) -> int:
        """Hold the directory until the descriptor is closed. Raises Unusable while somebody else does."""
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise Unusable(f"{self.root}: another supervisor runs here") from None
        return fd

    def clear(self) -> None:
        """Take away what parts left that are gone: sockets, and files that were never finished."""
        for path in self.root.iterdir():
            if path.suffix in (".sock", ".seats", ".hosting", ".channels", ".pub", ".part"):
                with suppress(FileNotFoundError):
                    path.unlink()
        with suppress(FileNotFoundError):
            self.targets.unlink()

    # -- processes, for a supervisor that comes after one that was killed

    def remember(self, pids: Iterable[int]) -> None:
        """Write down which processes run here; a number alone may be another's one day, so with its birth."""
        born = {pid: _birth(pid) for pid in pids}
        known = {str(pid): birth for pid, birth in born.items() if birth}
        self.write(self.root / "processes.json", json.dumps(known).encode())

    def reap(self) -> list[int]:
        """End what an earlier supervisor left: parts that stood still when it died never saw it."""
        try:
            known: Any = json.loads((self.root / "processes.json").read_bytes())
        except (OSError, ValueError):
            return []
        ended = []
        for text, birth in known.items() if isinstance(known, dict) else ():
            if text.isdecimal() and birth and _birth(int(text)) == birth:
                with suppress(ProcessLookupError):
                    os.kill(int(text), signal.SIGKILL)
                    ended.append(int(text))
        return ended

    # -- small files, whole or not at all

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file in one step: who reads it sees the old or the new one."""
        fresh = path.with_name(path.name + ".part")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        os.replace(fresh, path)

    def write_targets(self, targets: Mapping[str, int], labels: Mapping[str, Mapping[str, str]]) -> None:
        """Say where each part's metrics are, by its port on the loopback."""
        listed = [
            {"targets": [f"127.0.0.1:{port}"], "labels": dict(labels[part])}
            for part, port in sorted(targets.items())
        ]
        self.write(self.targets, json.dumps(listed, indent=1).encode() + b"\n")

    def epochs(self) -> dict[str, int]:
        """The last epoch of each part. Raises Unusable for a file that is none."""
        path = self.root / "epochs.json"
        try:
            found: Any = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise Unusable(f"{path}: cannot be read: {error}") from None
        if not isinstance(found, dict) or not all(type(epoch) is int for epoch in found.values()):
            raise Unusable(f"{path}: not what a supervisor writes; remove it when nothing runs here")
        return found

    def next_epochs(self, parts: Iterable[str]) -> dict[str, int]:
        """Begin a life of each of `parts`, where no supervisor keeps their epochs. Raises Unusable."""
        fd = os.open(self.root / "epochs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            epochs = self.epochs()
            fresh = {part: epochs.get(part, 0) + 1 for part in parts}
            self.write_epochs(epochs | fresh)
        finally:
            os.close(fd)
        return fresh

    def write_epochs(self, epochs: Mapping[str, int]) -> None:
        self.write(self.root / "epochs.json", json.dumps(epochs).encode())


def _birth(pid: int) -> str:
    """When a process began, as the kernel counts it; empty if it is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19]  # the 22nd of proc(5), counted behind the name
