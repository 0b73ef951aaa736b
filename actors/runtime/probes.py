"""What this machine offers of what processes, links and memory files need: looked at, never assumed."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

FILES = 1024  # descriptors; a machine with many L1s needs about five for each


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    good: bool
    needed: bool  # or only for some commands
    detail: str


def findings() -> Iterator[Finding]:
    """Look at everything, cheapest first."""
    version = platform.python_version()
    yield Finding("Python", sys.version_info >= (3, 11), True, f"{version}; needed: 3.11")
    yield Finding("Linux", sys.platform == "linux", True, platform.release())
    yield _files()
    yield _sealed_memory()
    yield _credentials()
    yield _processes()
    yield _vsock()
    root = os.geteuid() == 0
    yield Finding(
        "network namespaces", root, False, "root" if root else "needs root; for tests of many machines"
    )


def _files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Finding(
        "descriptors", soft >= FILES, False, f"{soft} of {hard}; enough for any deployment: {FILES}"
    )


def _sealed_memory() -> Finding:
    import fcntl

    try:
        fd = os.memfd_create("nestbed-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError) as error:
        return Finding("sealed memory files", False, True, f"{error}; for L1s in processes of their own")
    try:
        os.ftruncate(fd, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except OSError as error:
        return Finding("sealed memory files", False, True, str(error))
    finally:
        os.close(fd)
    return Finding("sealed memory files", True, True, "memfd with seals")


def _credentials() -> Finding:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        try:
            told = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except (AttributeError, OSError) as error:
            return Finding("peer credentials", False, True, str(error))
    return Finding("peer credentials", len(told) == 12, True, "of Unix sockets")


def _processes() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return Finding("pidfd", False, True, f"{error}; for nestbed up")
    return Finding("pidfd", True, True, "ends of processes are seen")


def _vsock() -> Finding:
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except (AttributeError, OSError) as error:
        return Finding("AF_VSOCK", False, False, f"{error}; Unix sockets stand in for it")
    return Finding("AF_VSOCK", True, False, "sockets can be made; whether a peer is there was not tried")
