"""What a call is made of, each part alone: the codec of links, dispatch, a handler.

Codec: a request of L1's as its link carries it, to bytes and back; beside msgpack alone with the same bytes.
Dispatch: a Ultravisor call that is found in the table and refused by its length, so no handler runs; beside
the least that any emulation does. Handler: Destroy Secure Storage of a page that is none, called by itself;
beside the whole call. All are of the CPU's time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import msgpack

from benchmarks.rate import rate
from benchmarks.run import Case
from benchmarks.uv_calls import cheap, least, prepared
from protocol.arch.s390.comparison import COMPARISON
from protocol.arch.s390.structs import ANSWER, ANSWER_AT, EXECUTED, INV_LEN, PADDR, block
from protocol.codec import Codec
from protocol.effects import Issue, run

TIMES = 500
DESTROY = 0x0202


# -- codec ---------------------------------------------------------------------------------


def request() -> Issue:
    """What L1 asks of L0 for such a call: the first message that it sends."""
    host = prepared(1, apart=True)
    step = COMPARISON.linked(host.level, len(host.level.cpus)).call(host.level.cpus[0], host.issuer.scratch)
    effect = step.send(None)
    assert isinstance(effect, Issue)
    return effect


def coded() -> float:
    codec, asked = Codec(COMPARISON.wire), request().arguments
    to, back = msgpack.Packer().pack, msgpack.unpackb

    def work() -> int:
        for _ in range(TIMES):
            told = codec.decode(back(to(codec.encode(asked))))
        assert told == asked
        return TIMES

    return rate(work)


def packed() -> float:
    plain = Codec(COMPARISON.wire).encode(request().arguments)
    to, back = msgpack.Packer().pack, msgpack.unpackb

    def work() -> int:
        for _ in range(TIMES):
            back(to(plain))
        return TIMES

    return rate(work)


# -- dispatch, handler ---------------------------------------------------------------------


def dispatched() -> float:
    host = prepared(0)
    level, cpu, at = host.level, host.issuer.cpu, host.issuer.scratch
    level.write(at, bytes(block(0x28, DESTROY, PADDR, 0)))

    def work() -> int:
        for _ in range(TIMES):
            run(level.call(cpu, at))
        return TIMES

    value = rate(work)
    assert level.read(at + ANSWER_AT, 4) == ANSWER.pack(INV_LEN, 0)
    return value


def handled() -> float:
    host = prepared(0)
    level, cpu = host.level, host.issuer.cpu
    handler = level.calls[DESTROY].handler
    asked = level.read(host.issuer.scratch, 0x20)

    def work() -> int:
        for _ in range(TIMES):
            outcome = handler(level, cpu, asked)
        assert outcome.rc == EXECUTED
        return TIMES

    return rate(work)


def cases() -> Iterable[Case]:
    yield Case("codec: a request of L1 to bytes and back", "message/s", coded, packed)
    yield Case("dispatch: a UV call found and refused", "call/s", dispatched, least)
    yield Case("handler: a UV call without its front", "call/s", handled, partial(cheap, 0))
