"""The part that holds an L1 and what runs on it, in a process of its own.

It comes to its machine's seat, gets its configuration and three descriptors, and brings its hosts up. When
the link to the machine ends, the machine is gone or has given the seat to somebody else: this process ends.
"""

from __future__ import annotations

import os

import trio

from actors import exit_codes
from actors.deployment.parts import Part, machine_name
from actors.deployment.process import Live, Process
from actors.node import Boot, Inherited, NodeConfig, settle_in
from actors.runtime.transport.unix import connect, receive_files
from protocol.errors import RemoteProtocolError
from protocol.wire import FRAME_LIMIT, FrameDecoder, pack_frame

FILES = 3
MACHINE_S = 30.0  # for the machine to be there
AGAIN_S = 0.02


async def hosts(process: Process, part: Part) -> None:
    """Be this L1 until its machine or its supervisor ends it."""
    name = machine_name(part.machine)
    try:
        config, inherited = await _take_seat(process, part)
    except (OSError, trio.BrokenResourceError, RemoteProtocolError, trio.TooSlowError) as error:
        process.end(exit_codes.GONE, f"{name} gave no seat: {type(error).__name__}: {error}")
        return

    def gone() -> None:
        process.end(exit_codes.GONE, f"{name} is gone, or has given the seat to another")

    node = await settle_in(
        config, [inherited], process.directory(part), process.runtime, process.nursery, gone
    )
    process.directory(part).add(f"node.{part.host}", node.actor)
    process.cast(node.actors)
    process.locks.append(node.locks)
    process.link(name, "kvm", node.links[0])
    process.collector.attach(config.arch, "nested", node.ledger, Live(node.books), depth=config.depth)
    for seat in config.seats:
        await node.actor.ask(Boot(seat, process.epoch(part)))
    process.ready(part, f"epoch {process.epoch(part)}")
    await trio.sleep_forever()


async def _take_seat(process: Process, part: Part) -> tuple[NodeConfig, Inherited]:
    path = process.place.seat(machine_name(part.machine))
    with trio.fail_after(MACHINE_S):
        while True:
            try:
                stream = await connect(path)
                break
            except OSError:
                await trio.sleep(AGAIN_S)
        async with stream:
            seat = 0 if process.scenario.depth > 1 else part.host
            await stream.send_all(pack_frame({"seat": seat, "epoch": process.epoch(part)}))
            return await _given(stream)


async def _given(stream: trio.SocketStream) -> tuple[NodeConfig, Inherited]:
    """The configuration, and what comes with its first byte."""
    decoder, files = FrameDecoder(), list[int]()
    try:
        while True:
            data, more = await receive_files(stream.socket, FRAME_LIMIT, FILES)
            files += more
            if not data:
                raise RemoteProtocolError("truncated", "turned away")
            for frame in decoder.feed(data):
                match frame:
                    case [str(text)] if len(files) == FILES:
                        return NodeConfig.read(text), Inherited(*files)
                raise RemoteProtocolError("shape", "no configuration with three descriptors")
    except BaseException:
        for fd in files:
            os.close(fd)
        raise
