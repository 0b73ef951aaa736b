"""pyzmq between two processes: msgpack at both ends, no actors at all.

One and 64 at a time are blocking sockets. 64 tasks that each wait for an answer of their own are asyncio's,
on pyzmq's own support for that, with a number in each message.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from itertools import count

import msgpack
import zmq
import zmq.asyncio

from benchmarks.peers.measures import (
    CALLERS_64,
    FIRST_REMOTE,
    MESSAGE,
    REMOTE,
    REMOTE_64,
    arate,
    rate,
    since_start,
    tell,
)


def router(address: str) -> None:
    """The other process: answers until it is killed."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    pack, unpack = msgpack.Packer().pack, msgpack.unpackb
    while True:
        who, body = socket.recv_multipart()
        socket.send_multipart([who, pack(unpack(body))])


async def tasks(address: str) -> float:
    """64 tasks over one socket, each with one question at a time."""
    pack, unpack = msgpack.Packer().pack, msgpack.unpackb
    socket = zmq.asyncio.Context().socket(zmq.DEALER)
    socket.connect(address)
    numbers, waiting = count(), dict[int, asyncio.Future[object]]()

    async def receive() -> None:
        while True:
            number, message = unpack(await socket.recv())
            waiting.pop(number).set_result(message)

    async def caller(n: int) -> None:
        for _ in range(n):
            number = next(numbers)
            answer = waiting[number] = asyncio.get_running_loop().create_future()
            await socket.send(pack((number, MESSAGE)))
            await answer

    async def some(n: int) -> None:
        await asyncio.gather(*(caller(-(-n // 64)) for _ in range(64)))

    receiving = asyncio.create_task(receive())
    found = await arate(some, 8192)
    receiving.cancel()
    socket.close(0)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/zmq"
        child = os.fork()
        if not child:
            router(address)
        pack, unpack = msgpack.Packer().pack, msgpack.unpackb
        socket = zmq.Context().socket(zmq.DEALER)
        socket.connect(address)

        def some(n: int, at_a_time: int) -> None:
            for _ in range(-(-n // at_a_time)):
                for _ in range(at_a_time):
                    socket.send(pack(MESSAGE))
                for _ in range(at_a_time):
                    unpack(socket.recv())

        some(1, 1)
        figures = {FIRST_REMOTE: since_start()}
        figures |= {REMOTE: rate(lambda n: some(n, 1)), REMOTE_64: rate(lambda n: some(n, 64))}
        tell(figures | {CALLERS_64: asyncio.run(tasks(address))})
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        socket.close(0)


main()
