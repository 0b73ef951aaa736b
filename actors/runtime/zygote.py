"""The helper that forks: everything is imported once, then every process starts in milliseconds.

`python -m actors.runtime.zygote FD MODULE [WHAT]` imports MODULE, has it import WHAT else the processes will
need (`MODULE.preload`), and waits for requests on the socket FD. One packet
is one request: a map of plain values, with the descriptors that the new process gets. The child calls
`MODULE.forked(request, descriptors)` in a session of its own and ends with the code that it returns.

It has one thread and no Trio run, so a fork copies nothing that is half done. It keeps nothing of its
children but their end, which it tells as [pid, code]. When the other side of FD is gone it ends; its children
have lifelines of their own.
"""

from __future__ import annotations

import importlib
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

from protocol.wire import pack_body, unpack_body

PACKET_BYTES = 1 << 17
FILES = 64  # descriptors of one request
SLEEPING = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")  # threads do not survive a fork

Forked = Callable[[dict[str, Any], list[int]], int]


def threads() -> int:
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def serve(link: socket.socket, entry: Forked) -> None:
    """Fork for every request until the other side is gone."""
    children: dict[int, int] = {}  # pidfd -> pid
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd != link.fileno():
                    _tell_end(link, selector, children, key.fd)
                elif not _take(link, selector, children, entry):
                    return


def _take(
    link: socket.socket, selector: selectors.BaseSelector, children: dict[int, int], entry: Forked
) -> bool:
    packet, files, _, _ = socket.recv_fds(link, PACKET_BYTES, FILES)
    if not packet:
        return False
    assert threads() == 1, "a fork would lose the other threads"
    pid = os.fork()
    if pid == 0:
        selector.close()
        link.close()
        for fd in children:
            os.close(fd)
        _live(unpack_body(packet), files, entry)
    for fd in files:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    children[pidfd] = pid
    selector.register(pidfd, selectors.EVENT_READ)
    socket.send_fds(link, [pack_body([pid])], [pidfd])  # the number alone may be another's by then
    return True


def _tell_end(
    link: socket.socket, selector: selectors.BaseSelector, children: dict[int, int], pidfd: int
) -> None:
    pid = children.pop(pidfd)
    selector.unregister(pidfd)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    link.send(pack_body([pid, os.waitstatus_to_exitcode(status)]))


def _live(request: Any, files: list[int], entry: Forked) -> None:
    """Be the child. Never returns."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        code = entry(request, files)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """`python -m actors.runtime.zygote FD MODULE`: started by a supervisor, not by a person."""
    fd, name, *what = sys.argv[1:]
    module = importlib.import_module(name)
    for each in what:
        module.preload(each)
    entry: Forked = module.forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is at the terminal speaks to the supervisor
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    with socket.socket(fileno=int(fd)) as link:
        link.send(pack_body([]))  # everything is imported
        serve(link, entry)


if __name__ == "__main__":
    main()
