"""An emulated guest with its VMM, in a process of its own: `python -I -S guest.py ROOT DIRECTORY`.

It outlives the service that started it. In its directory it reads `guest.json` and `image`, and serves:

  vsock     the hybrid scheme: CONNECT PORT reaches the guest's ports
  control   the VMM: one line, one answer (`stop`, `reset`, `state`)
  console   what the guest writes; up to 64 KiB are kept while nobody reads. Its word of readiness waits for
            whoever reads: what it wrote before is with them by then

An image that begins with `#!nestbed` is the guest's program, a line for each step: `print TEXT`, `sleep MS`,
`ready`, `emergency` (it is ready, but in emergency mode), `forge NONCE` (it announces another's readiness),
`bind HEX` (to its evidence), `exit STATUS`, `hang`; a line that is empty or begins with # is none. What is no
step of an image ends the guest with status 2. Any other image prints a line and is ready. Ports of the guest:
7 echoes, 9 discards, 1 takes further steps as lines.

Only the standard library, and of that only what is quick to import: there may be a thousand of these.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

sys.path.insert(0, sys.argv[1])

from protocol.vsock import hybrid

CONSOLE_BYTES = 64 * 1024
READY_WORD, EMERGENCY_WORD = b"\xb7", b"\xe7"
ECHO, DISCARD, STEPS = 7, 9, 1
RETRY_S, LONGEST_RETRY_S = 0.02, 0.5  # doubled each time: where nobody waits for the word, it costs little
BAD_PROGRAM, KILLED = 2, 137  # exit status


class Loop:
    """Sockets that have something, and calls that are due."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._due: list[tuple[float, Callable[[], None]]] = []

    def watch(self, made: socket.socket, events: int, call: Callable[[], None]) -> None:
        try:
            self.selector.modify(made, events, call)
        except KeyError:
            self.selector.register(made, events, call)

    def forget(self, made: socket.socket) -> None:
        with suppress(KeyError, ValueError):
            self.selector.unregister(made)
        made.close()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, call))

    def run(self) -> None:
        while True:
            now = time.monotonic()
            timeout = max(0.0, min(at for at, _ in self._due) - now) if self._due else None
            for ready, _ in self.selector.select(timeout):
                ready.data()
            now = time.monotonic()
            due = [each for each in self._due if each[0] <= now]
            self._due = [each for each in self._due if each[0] > now]
            for _, call in due:
                call()


class Wire:
    """A stream with what waits to be sent on it; reading stops while that is much."""

    def __init__(self, loop: Loop, made: socket.socket, feed: Callable[[Wire, bytes], None]) -> None:
        made.setblocking(False)
        self.loop, self.socket, self.feed = loop, made, feed
        self.out = bytearray()
        self.events = -1
        self.ended: Callable[[], None] = lambda: None
        self.emptied: Callable[[], None] = lambda: None  # all that was to be sent is with the kernel
        self.closing = False  # the peer has said all: what waits is sent, then it is over
        self.read_bytes = hybrid.BUFFER_BYTES
        self._settle()

    def send(self, data: bytes) -> None:
        self.out += data
        self._flush()

    def close(self) -> None:
        self.loop.forget(self.socket)
        ended, self.ended = self.ended, lambda: None
        ended()

    def _settle(self) -> None:
        if self.socket.fileno() < 0:
            return
        events = selectors.EVENT_WRITE if self.out else 0
        if len(self.out) < hybrid.BUFFER_BYTES and not self.closing:
            events |= selectors.EVENT_READ
        if events != self.events:
            self.events = events
            self.loop.watch(self.socket, events, self._turn)

    def _turn(self) -> None:
        if self.out:
            self._flush()
        if self.socket.fileno() < 0 or self.closing or len(self.out) >= hybrid.BUFFER_BYTES:
            return
        try:
            data = self.socket.recv(self.read_bytes)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closing = True
            self._flush()
            return
        self.feed(self, data)
        self._settle()

    def _flush(self) -> None:
        try:
            while self.out:
                del self.out[: self.socket.send(self.out)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self.closing and not self.out:
            self.close()
            return
        self._settle()
        if not self.out:
            self.emptied()


class Guest:
    """The guest and its VMM."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.loop = Loop()
        self.console = bytearray()
        self.readers: list[Wire] = []
        self.ports = hybrid.HostPorts()
        self.steps: deque[str] = deque()
        self.boots = 0
        self.held: Callable[[], None] | None = None  # it waits for the readers of the console
        facts = dict(line.split(" ", 1) for line in self._text("guest.facts").splitlines())
        self.cid, self.ready_port = int(facts["cid"]), int(facts["ready_port"])
        self.nonce = bytes.fromhex(facts["nonce"])
        for name, accepted in (("vsock", self._vsock), ("control", self._control), ("console", self._reader)):
            self._listen(name, accepted)
        self._boot()

    def _text(self, name: str) -> str:
        with open(f"{self.directory}/{name}", encoding="utf-8") as file:
            return file.read()

    def _listen(self, name: str, accepted: Callable[[socket.socket], None]) -> None:
        path = f"{self.directory}/{name}"
        if os.path.exists(path):
            os.unlink(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(path)
        made.listen(128)
        made.setblocking(False)

        def accept() -> None:
            try:
                peer, _ = made.accept()
            except OSError:
                return
            accepted(peer)

        self.loop.watch(made, selectors.EVENT_READ, accept)

    # -- what the guest does

    def _boot(self) -> None:
        self.boots += 1
        self.held = None
        with open(f"{self.directory}/image", "rb") as file:
            image = file.read(64 * 1024)
        self.steps.clear()
        self.steps_are = "image"
        if image.startswith(b"#!nestbed"):
            self.steps.extend(image.decode("utf-8", "replace").splitlines()[1:])
        else:
            self.steps.extend((f"print guest {self.cid}: boot {self.boots}", "ready"))
        self._go_on()

    def _go_on(self) -> None:
        while self.steps:
            step = self.steps.popleft().strip()
            try:
                if not self._do(*step.partition(" ")[::2]):
                    return
            except ValueError:
                self._print(f"no such step: {step[:80]}\n".encode(errors="replace"))
                if self.steps_are == "image":
                    self._give_up()
                    return

    def _do(self, word: str, rest: str) -> bool:
        """Do one step; whether the next one is due. Raises ValueError for one that is none."""
        if word == "print":
            self._print(rest.encode() + b"\n")
        elif word == "sleep":
            self._later(self.boots, int(rest) / 1000, self._go_on)
            return False
        elif word in ("ready", "emergency"):
            self._announce(self.nonce, READY_WORD if word == "ready" else EMERGENCY_WORD)
            return False
        elif word == "forge":
            self._announce(bytes.fromhex(rest), READY_WORD)
            return False
        elif word == "bind":
            bound = bytes.fromhex(rest)[:512]
            with open(f"{self.directory}/bound", "wb") as file:
                file.write(bound)
        elif word == "exit":
            self._exit(int(rest or 0))
        elif word == "hang":
            return False
        elif word and not word.startswith("#"):
            raise ValueError(word)
        return True

    def _give_up(self) -> None:
        """End, once whoever reads the console has what is wrong."""
        self.held = lambda: self._exit(BAD_PROGRAM)
        if not (self.console or any(reader.out for reader in self.readers)):
            self._printed()

    def _announce(self, nonce: bytes, word: bytes, retry_s: float = RETRY_S) -> None:
        """Dial the host until somebody listens; the handshake is over when the same word comes back.

        What was printed goes first: whoever hears the word may read it.
        """
        boot = self.boots

        def again() -> None:
            later_s = min(2 * retry_s, LONGEST_RETRY_S)
            self._later(boot, retry_s, lambda: self._announce(nonce, word, later_s))

        if self.console or any(reader.out for reader in self.readers):
            self.held = lambda: self._announce(nonce, word, retry_s)
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(f"{self.directory}/vsock_{self.ready_port}")
        except OSError:
            made.close()
            again()
            return

        def answered(wire: Wire, data: bytes) -> None:
            wire.ended = lambda: None
            wire.close()
            if data[:1] == word and self.boots == boot:
                self._go_on()

        wire = Wire(self.loop, made, answered)
        wire.ended = again
        wire.send(nonce + word)

    def _later(self, boot: int, seconds: float, call: Callable[[], None]) -> None:
        """Go on then, if the guest is still in that boot."""

        def due() -> None:
            if self.boots == boot:
                call()

        self.loop.later(seconds, due)

    def _print(self, data: bytes) -> None:
        for reader in list(self.readers):
            reader.send(data)
        if not self.readers:
            self.console += data
            del self.console[:-CONSOLE_BYTES]

    def _exit(self, status: int) -> None:
        self.held = None
        path = f"{self.directory}/exit"
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(str(status))
        os.replace(f"{path}.new", path)
        for reader in self.readers:
            reader.socket.setblocking(True)
            reader._flush()
        sys.exit(0)

    # -- what the VMM does

    def _reader(self, peer: socket.socket) -> None:
        wire = Wire(self.loop, peer, lambda wire, data: self._print(data))

        def ended() -> None:
            self.readers.remove(wire)
            self._printed()

        wire.ended, wire.emptied = ended, self._printed
        self.readers.append(wire)
        kept, self.console = bytes(self.console), bytearray()
        wire.send(kept)

    def _printed(self) -> None:
        """Whoever reads the console may have all of it by now: what waited for that goes on."""
        held, self.held = self.held, None
        if held is not None:
            held()

    def _control(self, peer: socket.socket) -> None:
        lines = bytearray()

        def feed(wire: Wire, data: bytes) -> None:
            lines.extend(data)
            while b"\n" in lines:
                line, _, rest = bytes(lines).partition(b"\n")
                lines[:] = rest
                wire.send(self._command(line.decode("ascii", "replace")) + b"\n")

        Wire(self.loop, peer, feed)

    def _command(self, line: str) -> bytes:
        if line == "stop":
            self.loop.later(0, lambda: self._exit(0))
            return b"ok"
        if line == "reset":
            self._boot()
            return b"ok"
        if line == "dump":
            self._dump()
            return b"ok"
        if line == "state":
            return b"running"
        return b"unknown"

    def _dump(self) -> None:
        """All there is of it: a line about the guest, what it still has to do, then its image."""
        path = f"{self.directory}/dump"
        with open(f"{path}.new", "wb") as file, open(f"{self.directory}/image", "rb") as image:
            file.write(f"guest {self.cid} boot {self.boots} steps {len(self.steps)}\n".encode())
            file.write(image.read())
        os.replace(f"{path}.new", path)

    def _vsock(self, peer: socket.socket) -> None:
        host_port = self.ports.take()
        if host_port is None:
            peer.close()
            return
        line = bytearray()

        def handshake(wire: Wire, data: bytes) -> None:
            line.extend(data)
            try:
                wire.read_bytes = hybrid.wanted(bytes(line))
                if wire.read_bytes:
                    return
                feed = self._port(hybrid.read_connect(bytes(line)))
            except (ValueError, KeyError):
                wire.close()  # a refusal is the end of the stream, without a byte
                return
            wire.feed, wire.read_bytes = feed, hybrid.BUFFER_BYTES
            wire.send(hybrid.ok_line(host_port))

        wire = Wire(self.loop, peer, handshake)
        wire.read_bytes = hybrid.wanted(b"")
        wire.ended = lambda: self.ports.give_back(host_port)

    def _port(self, port: int) -> Callable[[Wire, bytes], None]:
        """What listens on a port of the guest; raises KeyError where nothing does."""
        return {ECHO: Wire.send, DISCARD: lambda wire, data: None, STEPS: self._take_steps}[port]

    def _take_steps(self, wire: Wire, data: bytes) -> None:
        self.steps_are = "port"  # somebody at a terminal may try again
        self.steps.extend(data.decode("utf-8", "replace").splitlines())
        wire.send(b"ok\n")
        self._go_on()


if __name__ == "__main__":
    Guest(sys.argv[2]).loop.run()
