"""pyzmq between two processes: blocking sockets, msgpack at both ends, no actors at all."""

from __future__ import annotations

import os
import signal
import tempfile

import msgpack
import zmq

from benchmarks.peers.measures import MESSAGE, REMOTE, REMOTE_64, rate, tell


def router(address: str) -> None:
    """The other process: answers until it is killed."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    pack, unpack = msgpack.Packer().pack, msgpack.unpackb
    while True:
        who, body = socket.recv_multipart()
        socket.send_multipart([who, pack(unpack(body))])


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

        tell({REMOTE: rate(lambda n: some(n, 1)), REMOTE_64: rate(lambda n: some(n, 64))})
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        socket.close(0)


main()
