"""Pykka: an actor is a thread; a question is answered through a future."""

from __future__ import annotations

import pykka

from benchmarks.peers.measures import (
    ACTORS,
    FIRST,
    LOCAL,
    LOCAL_64,
    MEMORY,
    MESSAGE,
    START,
    Stretch,
    rate,
    resident,
    since_start,
    tell,
)


class Echo(pykka.ThreadingActor):
    def on_receive(self, message: object) -> object:
        return message


def main() -> None:
    echo = Echo.start()

    def one(n: int) -> None:
        for _ in range(n):
            echo.ask(MESSAGE)

    def many(n: int) -> None:
        for _ in range(-(-n // 64)):
            for future in [echo.ask(MESSAGE, block=False) for _ in range(64)]:
                future.get()

    one(1)
    figures = {FIRST: since_start(), LOCAL: rate(one), LOCAL_64: rate(many)}
    count = ACTORS // 5  # threads cost what they cost: a fifth of them says it
    before, stretch = resident(), Stretch()
    actors = [Echo.start() for _ in range(count)]
    spent = stretch.spent
    figures |= {START: count / spent, MEMORY: (resident() - before) / len(actors)}
    pykka.ActorRegistry.stop_all()
    tell(figures)


main()
