"""A child process with connections to it: started, watched, and gone when its parent wants or dies.

The child gets its connections as inherited descriptors, named on its command line. It lives in a session of
its own, so a signal to a terminal's foreground group does not reach it twice; when its parent dies it sees
the end of its links.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from actors.runtime.transport.unix import Pair

KILL_AFTER_S = 5.0  # after SIGTERM


@dataclass(slots=True)
class Child:
    """A running child. `code` is its exit code once `ended` is set, negative for a signal."""

    name: str
    process: trio.Process
    ended: trio.Event = field(default_factory=trio.Event)
    code: int | None = None

    def kill(self) -> None:
        """End it as a crash does: nothing of it runs any more."""
        self.process.send_signal(signal.SIGKILL)


async def start(
    nursery: trio.Nursery, name: str, command: Sequence[str], pairs: Sequence[Pair], files: Sequence[int] = ()
) -> Child:
    """Start `command`, which names what it inherits: the other ends of `pairs`, and `files`.

    It is killed when `nursery` ends.
    """
    run = partial(
        trio.run_process,
        command,
        stdin=subprocess.DEVNULL,
        check=False,
        pass_fds=(*(pair.theirs for pair in pairs), *files),
        start_new_session=True,
        deliver_cancel=_deliver_cancel,
    )
    process: trio.Process = await nursery.start(run)
    for pair in pairs:
        pair.handed_over()
    child = Child(name, process)
    nursery.start_soon(_watch, child)
    return child


async def _watch(child: Child) -> None:
    child.code = await child.process.wait()
    child.ended.set()


async def _deliver_cancel(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(KILL_AFTER_S, shield=True):
        await process.wait()
    process.kill()
