"""L0's machine as the service meets it: each guest a process of its own, in a directory of its own.

The processes outlive the service. After its death the next one looks through the directories and takes on
what lives. Answers to the effects follow the contract of `protocol.hosting.machine`.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
from trio.lowlevel import wait_readable

from actors.hosting.ready import EMERGENCY, ReadyChannel, ReadyListener
from actors.hosting.vmm.emulated import Vmm
from actors.hosting.vmm.files import GuestFiles
from actors.runtime.port import Deliver
from actors.runtime.transport import unix
from actors.runtime.transport.address import connect
from protocol.errors import OutcomeUnknown
from protocol.hosting.machine import (
    AttestGuest,
    CreateGuest,
    DestroyGuest,
    Died,
    DumpGuest,
    Emergency,
    Failure,
    Found,
    ImageChanged,
    Inventory,
    LoadGuest,
    MachineEffect,
    NoResource,
    ResetGuest,
    StartGuest,
    StopGuest,
    TimedOut,
    Vanished,
)
from protocol.vsock.address import UNIX_PATH_BYTES, Address

READY_PORTS = 20_000  # the first one; each child has its own
PORTS = 40_000
LONGEST_NAME = len("/4294967295/vsock_4294967295")
POLL_S = 0.005  # how often it is looked whether a VMM is up
AGAIN_S = 5.0  # for a guest to say its word again where it was not answered and holds up its one channel
END_S = 5.0  # for a killed process to go
CONSOLE_CHUNK = 256 * 1024  # more than a socket holds, so that one read takes all that is there
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)

Ended = Callable[[bytes, int | None], None]
Wrote = Callable[[bytes, bytes], None]


@dataclass(slots=True)
class Running:
    """A guest's process: `ended` is set once it is gone, `heard` once its console is being read."""

    pid: int
    ended: trio.Event = field(default_factory=trio.Event)
    heard: trio.Event = field(default_factory=trio.Event)
    console: int = -1  # the descriptor of the stream, while there is one


class ProcessMachine:
    """The port `machine` of the broker. `vmms` are those that are offered, by name.

    `ended` is told of each guest that ended, and how, `wrote` what they write on their consoles.
    """

    def __init__(
        self, directory: Path, vmms: Mapping[str, Vmm], nursery: trio.Nursery, ended: Ended, wrote: Wrote
    ) -> None:
        self.directory = directory
        self.forged = 0  # announcements of readiness that were not the guest's own
        self._vmms = vmms
        self._nursery = nursery
        self._ended = ended
        self._wrote = wrote
        self._files: dict[bytes, GuestFiles] = {}
        self._making: set[Path] = set()  # directories that are not whole yet, and are being made
        self._running: dict[bytes, Running] = {}
        self._again: dict[bytes, tuple[trio.CancelScope, ReadyListener | ReadyChannel]] = {}
        directory.mkdir(mode=0o700, exist_ok=True)

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Do one thing to a guest; others go on meanwhile."""
        self._nursery.start_soon(self._perform, message, deliver)

    async def _perform(self, effect: object, deliver: Deliver) -> None:
        try:
            answer = await self._do(effect)
        except OSError as error:
            if error.errno in FULL and not isinstance(effect, Inventory):
                deliver(NoResource("files", str(error)), None)
            else:
                deliver(None, OutcomeUnknown(f"{type(effect).__name__}: {error}"))
            return
        deliver(answer, None)

    async def _do(self, effect: object) -> object:
        if isinstance(effect, Inventory):
            return await self._inventory()
        if isinstance(effect, CreateGuest):
            return await self._create(effect)
        assert isinstance(effect, MachineEffect)
        files = self._files.get(effect.child)
        if files is None:
            return Vanished()
        match effect:
            case LoadGuest():
                return await trio.to_thread.run_sync(_load, files, self.vmm_of(files))
            case StartGuest(child, timeout_ms):
                return await self._start(child, files, timeout_ms)
            case StopGuest(child, grace_ms):
                return await self._stop(child, files, grace_ms)
            case ResetGuest(child, timeout_ms):
                return await self._reset(child, files, timeout_ms)
            case AttestGuest():
                return files.measured()
            case DumpGuest(child, offset, count):
                return await self._dump(child, files, offset, count)
            case DestroyGuest(child):
                return await self._destroy(child, files)
        raise AssertionError(f"no step of a machine: {effect!r}")

    def vmm_of(self, files: GuestFiles) -> Vmm:
        return self._vmms[files.facts().get("vmm", "emulated")]

    async def dial(self, child: bytes, port: int) -> trio.abc.Stream:
        """A stream to a port of a guest. Raises OSError: there is no such guest, or nothing listens."""
        address = self.address_of(child, port)
        if address is None:
            raise ConnectionRefusedError("no such guest")
        return await connect(address)

    def address_of(self, child: bytes, port: int) -> Address | None:
        """Where a port of a guest is reached."""
        files = self._files.get(child)
        return None if files is None else self.vmm_of(files).channel(files, port)

    # -- a guest's life

    async def _create(self, effect: CreateGuest) -> object:
        files = GuestFiles(self.directory / str(effect.cid))
        spec = effect.spec
        nonce = hashlib.sha256(effect.child + effect.cid.to_bytes(4, "big") + os.urandom(16)).digest()[:16]
        facts = {
            "vmm": spec.vmm,
            "ready": spec.ready,
            "ready_port": READY_PORTS + effect.cid % PORTS,
            "nonce": nonce.hex(),
            "digest": spec.image.hex(),
            "policy": spec.policy,
            "vcpus": spec.vcpus,
            "memory_mib": spec.memory_mib,
            "owner": effect.owner_cid,
        }
        self._making.add(files.path)
        try:
            await trio.to_thread.run_sync(files.make, effect.child, effect.cid, effect.image, facts)
        except OSError:
            files.remove()
            raise
        finally:
            self._making.discard(files.path)
        self._files[effect.child] = files
        return None

    async def _start(self, child: bytes, files: GuestFiles, timeout_ms: int) -> Failure | None:
        if child in self._running and self._running[child].ended.is_set():
            return Died(files.exit())
        facts = files.facts()
        listener = self._ready(files, facts)
        word, answered = files.ready()
        if listener.wanted and word and child in self._running:
            if not answered:
                await self._hear_again(child, listener, timeout_ms)
            else:
                listener.close()
            await self._written(child)
            return Emergency() if word == EMERGENCY else None
        with listener:
            if child not in self._running:
                self._spawn(child, files)
            return await self._until_ready(child, files, listener, timeout_ms)

    def _ready(self, files: GuestFiles, facts: Mapping[str, str]) -> ReadyListener | ReadyChannel:
        if self.vmm_of(files).dials:
            return ReadyListener(files, facts, self._was_forged)
        return ReadyChannel(files, facts)

    def _was_forged(self) -> None:
        self.forged += 1

    def _spawn(self, child: bytes, files: GuestFiles) -> None:
        files.forget_exit()
        command = self.vmm_of(files).command(files)
        log = files.socket("log")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        files.note_spawning()  # before it is done, as everything
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setsid=True)
        files.note_process(pid)
        self._watch(child, files, pid)

    async def _until_ready(
        self, child: bytes, files: GuestFiles, listener: ReadyListener | ReadyChannel, timeout_ms: int
    ) -> Failure | None:
        """Race readiness against the end of the process and of the time."""
        running = self._running[child]
        answer: list[Failure | None] = []
        async with trio.open_nursery() as race:

            async def ready() -> None:
                if not listener.wanted:
                    await self._entered(files)
                    answer.append(None)
                else:
                    word = await listener.announced(running.pid)
                    await self._written(child)
                    answer.append(Emergency() if word == EMERGENCY else None)
                race.cancel_scope.cancel()

            async def died() -> None:
                await running.ended.wait()
                answer.append(Died(files.exit()))
                race.cancel_scope.cancel()

            race.start_soon(ready)
            race.start_soon(died)
            race.cancel_scope.deadline = trio.current_time() + timeout_ms / 1000
        return answer[0] if answer else TimedOut(timeout_ms)

    async def _hear_again(
        self, child: bytes, listener: ReadyListener | ReadyChannel, timeout_ms: int
    ) -> None:
        """Answer a guest whose word a former life had, and perhaps did not answer, when it says it again.

        It may take its time over that; nobody waits for it, unless its channel is needed for other things.
        """
        scope = trio.CancelScope(deadline=trio.current_time() + timeout_ms / 1000)
        self._again[child] = scope, listener

        async def hear() -> None:
            with scope, listener, suppress(trio.ClosedResourceError):
                await listener.announced(self._running[child].pid)

        if listener.apart:
            self._nursery.start_soon(hear)
        else:
            scope.deadline = min(scope.deadline, trio.current_time() + AGAIN_S)
            await hear()

    def _hear_no_more(self, child: bytes) -> None:
        """What the guest had said is over with its boot."""
        if child in self._again:
            scope, listener = self._again.pop(child)
            scope.cancel()
            listener.close()

    async def _entered(self, files: GuestFiles) -> None:
        vmm = self.vmm_of(files)
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                if await vmm.entered(files):
                    return
            await trio.sleep(POLL_S)

    async def _stop(self, child: bytes, files: GuestFiles, grace_ms: int) -> Failure | None:
        running = self._running.get(child)
        if running is None or running.ended.is_set():
            return None
        if grace_ms:
            with trio.move_on_after(grace_ms / 1000):
                with suppress(OSError, trio.BrokenResourceError):
                    await self.vmm_of(files).stop(files)
                await running.ended.wait()
        return await self._killed(files, running)

    async def _killed(self, files: GuestFiles, running: Running) -> Failure | None:
        files.kill()
        with trio.move_on_after(END_S):
            await running.ended.wait()
            return None
        return TimedOut(int(1000 * END_S))

    async def _reset(self, child: bytes, files: GuestFiles, timeout_ms: int) -> Failure | None:
        running = self._running.get(child)
        if running is None or running.ended.is_set():
            return Vanished()
        self._hear_no_more(child)
        files.forget_ready()
        with self._ready(files, files.facts()) as listener:
            await self.vmm_of(files).reset(files)
            return await self._until_ready(child, files, listener, timeout_ms)

    async def _destroy(self, child: bytes, files: GuestFiles) -> Failure | None:
        running = self._running.get(child)
        if running is not None:
            failure = await self._killed(files, running)
            if failure is not None:
                return failure
        await trio.to_thread.run_sync(files.remove)
        self._running.pop(child, None)
        del self._files[child]
        return None

    async def _dump(self, child: bytes, files: GuestFiles, offset: int, count: int) -> object:
        """A part of the dump; the guest is dumped anew when its beginning is asked for."""
        path = files.path / "dump"
        if offset == 0 or not path.exists():
            await self.vmm_of(files).dump(files)
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(offset, size))
            return size, file.read(count)

    # -- processes

    def _watch(self, child: bytes, files: GuestFiles, pid: int) -> None:
        running = self._running[child] = Running(pid)
        self._nursery.start_soon(self._until_gone, child, files, running, os.pidfd_open(pid))
        self._nursery.start_soon(self._read_console, child, files, running)

    async def _until_gone(self, child: bytes, files: GuestFiles, running: Running, pidfd: int) -> None:
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        with suppress(ChildProcessError):  # a process that a former life of the service started
            files.note_end(os.waitpid(running.pid, os.WNOHANG)[1])
        while self._take(child, running):
            pass  # what it had written last
        running.ended.set()
        self._hear_no_more(child)
        self._ended(child, files.exit())

    async def _read_console(self, child: bytes, files: GuestFiles, running: Running) -> None:
        try:
            stream = await self._console_of(files, running)
            if stream is None:
                return
            async with stream:
                running.console = stream.socket.fileno()
                running.heard.set()
                try:
                    while self._take(child, running) != b"":
                        await wait_readable(running.console)
                finally:
                    running.console = -1  # before it is closed: its number may be another's at once
        finally:
            running.heard.set()  # or never will be: nobody waits for it any longer

    async def _console_of(self, files: GuestFiles, running: Running) -> trio.SocketStream | None:
        while not running.ended.is_set():
            with suppress(OSError):
                return await unix.connect(Path(files.socket("console")))
            await trio.sleep(POLL_S)
        return None

    def _take(self, child: bytes, running: Running) -> bytes | None:
        """Pass on what the guest has written by now; None: nothing new, empty: its console has ended.

        No wait between reading and passing on: two tasks do this, and the order stays that of the guest.
        """
        if running.console < 0:
            return b""
        try:
            data = os.read(running.console, CONSOLE_CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if data:
            self._wrote(child, data)
        return data

    async def _written(self, child: bytes) -> None:
        """Pass on what the guest wrote before it said its word: a VMM that orders the two has sent it."""
        running = self._running[child]
        await running.heard.wait()
        self._take(child, running)

    async def _inventory(self) -> Mapping[bytes, Found]:
        """Look through the directories; take on the guests of a former life."""
        found: dict[bytes, Found] = {}
        for path in sorted(self.directory.iterdir()):
            if path in self._making:
                continue
            files = GuestFiles(path)
            facts = files.facts()
            if "child" not in facts:
                await trio.to_thread.run_sync(files.remove)  # a creation that was cut short
                continue
            child = bytes.fromhex(facts["child"])
            self._files[child] = files
            pid = files.process()
            if pid is not None and child not in self._running:
                self._watch(child, files, pid)
            found[child] = Found(pid is not None, None if pid is not None else files.exit())
        return found


def _load(files: GuestFiles, vmm: Vmm) -> Failure | None:
    """Measure what lies there: it has to be what was announced."""
    facts = files.facts()
    with (files.path / "image").open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != facts["digest"]:
            return ImageChanged()
        file.seek(0)
        measurement = hashlib.file_digest(file, "sha384").hexdigest()
    (files.path / "measurement").write_text(measurement)
    try:
        vmm.prepare(files)
    except ValueError:
        return ImageChanged()
    return None


def too_long(directory: Path) -> int:
    """By how many bytes sockets of guests in `directory` are too long for the kernel; 0 if they fit."""
    return max(0, len(os.fsencode(directory / "guests")) + LONGEST_NAME - UNIX_PATH_BYTES)
