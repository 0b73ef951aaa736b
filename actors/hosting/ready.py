"""The ready handshake of one child: an endpoint of its own, there before the guest runs.

The guest dials a port of its host that is its own: its nonce, then one byte. The host sends the byte back,
and only then is it ready: a guest that died meanwhile is not. Whoever else announces readiness is turned
away: the kernel says which process has dialled, and the nonce is known to that guest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import trio

from actors.hosting.vmm.files import GuestFiles
from actors.runtime.transport.address import connect, listen_unix, peer_of
from protocol.vsock.address import Address

READY, EMERGENCY = b"\xb7", b"\xe7"
NONCE_BYTES = 16
HANDSHAKE_S = 2.0
DIAL_S = 0.01


class ReadyListener:
    """Listens until it is closed; `wanted` says whether the guest is to announce itself at all.

    `apart`: the endpoint serves nothing else, so it may stay for as long as anybody likes. `forged` is told
    of each announcement that was not the guest's own.
    """

    apart = True

    def __init__(self, files: GuestFiles, facts: Mapping[str, str], forged: Callable[[], None]) -> None:
        self.wanted = facts["ready"] == "notified"
        self._forged = forged
        self._files = files
        self._path = files.socket(f"vsock_{facts['ready_port']}")
        self._nonce = bytes.fromhex(facts["nonce"])
        self._listener = listen_unix(self._path) if self.wanted else None

    def __enter__(self) -> ReadyListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, once: the next one has the same name."""
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None
            Path(self._path).unlink(missing_ok=True)

    async def announced(self, pid: int) -> bytes:
        """Wait for the guest whose VMM is process `pid`; return the byte that it sent."""
        listener = self._listener
        assert listener is not None
        while True:
            stream = await listener.accept()
            async with stream:
                word = b""
                with suppress(trio.BrokenResourceError), trio.move_on_after(HANDSHAKE_S):
                    word = await self._handshake(stream, pid)
                if word:
                    return word
                self._forged()

    async def _handshake(self, stream: trio.SocketStream, pid: int) -> bytes:
        if peer_of(stream).pid != pid:
            return b""
        data = b""
        while len(data) <= NONCE_BYTES:
            more = await stream.receive_some(NONCE_BYTES + 1 - len(data))
            if not more:
                return b""
            data += more
        word = data[NONCE_BYTES:]
        if data[:NONCE_BYTES] != self._nonce or word not in (READY, EMERGENCY):
            return b""
        self._files.note_ready(word)
        await stream.send_all(word)
        self._files.note_ready(word, answered=True)
        return word


class ReadyChannel:
    """The same on the guest's one channel, which is dialled from here: the nonce comes as digits.

    Nobody else can write there, so nothing can be forged; what the guest says before is passed over.
    """

    apart = False

    def __init__(self, files: GuestFiles, facts: Mapping[str, str]) -> None:
        self.wanted = facts["ready"] == "notified"
        self._files = files
        self._address = Address("unix", files.socket("channel"))
        self._nonce = facts["nonce"].encode()

    def __enter__(self) -> ReadyChannel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    async def announced(self, pid: int) -> bytes:
        """Wait for the guest's word, on a connection that is there before it speaks."""
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                stream = await connect(self._address)
                async with stream:
                    word = await self._word(stream)
                    if word:
                        self._files.note_ready(word)
                        await stream.send_all(word)
                        self._files.note_ready(word, answered=True)
                        return word
            await trio.sleep(DIAL_S)

    async def _word(self, stream: trio.abc.Stream) -> bytes:
        said = b""
        while True:
            more = await stream.receive_some(1)
            if not more:
                return b""
            said = (said + more)[-len(self._nonce) - 1 :]
            if said[:-1] == self._nonce and said[-1:] in (READY, EMERGENCY):
                return said[-1:]
