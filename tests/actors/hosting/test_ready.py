"""The ready handshake on a guest that has one channel: its word is kept, then answered, then known to be."""

from __future__ import annotations

from pathlib import Path

import trio

from actors.hosting.ready import ReadyChannel
from actors.hosting.vmm.files import GuestFiles
from actors.runtime.transport.address import listen_unix

FACTS = {"ready": "notified", "nonce": "0f" * 16}


async def test_a_word_on_the_channel_is_kept_before_it_is_answered_and_after(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of Unix sockets are short
    files, kept = GuestFiles(Path()), []

    async def guest(stream):
        await stream.send_all(b"noise of a boot" + FACTS["nonce"].encode() + b"\xb7")
        kept.append(files.ready())
        assert await stream.receive_some(1) == b"\xb7"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, guest, [listen_unix("channel")])
        with ReadyChannel(files, FACTS) as channel:
            assert files.ready() == (b"", False)
            assert await channel.announced(0) == b"\xb7"
        assert files.ready() == (b"\xb7", True)
        nursery.cancel_scope.cancel()
