"""How long a byte and its echo take between two threads of this machine: a Unix socket, and VSOCK where it
is.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

LOCAL_CID = 1  # the machine itself, where vsock_loopback is there; never a hypervisor's
TIMEOUT_S = 5.0


def unix(times: int) -> list[float]:
    """Seconds of each round trip over a pair of Unix sockets."""
    here, there = socket.socketpair()
    return _measured(here, lambda: there, times)


def vsock(times: int) -> list[float] | None:
    """The same over AF_VSOCK to this machine itself; None where that is not to be had."""
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        return None
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.settimeout(TIMEOUT_S)
        listener.bind((LOCAL_CID, getattr(socket, "VMADDR_PORT_ANY", 0xFFFFFFFF)))
        listener.listen(1)
        here = socket.socket(family, socket.SOCK_STREAM)
        here.settimeout(TIMEOUT_S)
        here.connect((LOCAL_CID, listener.getsockname()[1]))
    except OSError:
        return None
    with listener:
        return _measured(here, lambda: listener.accept()[0], times)


def _measured(here: socket.socket, other_end: Callable[[], socket.socket], times: int) -> list[float]:
    there = other_end()
    here.settimeout(TIMEOUT_S)
    there.settimeout(TIMEOUT_S)
    echo = threading.Thread(target=_echo, args=(there, times))
    echo.start()
    found = []
    with here, there:
        for _ in range(times):
            began = time.perf_counter()
            here.sendall(b"x")
            here.recv(1)
            found.append(time.perf_counter() - began)
        echo.join()
    return found


def _echo(there: socket.socket, times: int) -> None:
    for _ in range(times):
        there.sendall(there.recv(1))
