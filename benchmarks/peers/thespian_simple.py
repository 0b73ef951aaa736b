"""Thespian on its simple base: actors in one process, without threads."""

from __future__ import annotations

from typing import Any

from thespian.actors import Actor, ActorSystem

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

QUIET = {"version": 1, "disable_existing_loggers": True}
PATIENCE_S = 10


class Echo(Actor):
    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802 - Thespian's name
        if isinstance(message, dict):
            self.send(sender, message)


def main() -> None:
    system = ActorSystem("simpleSystemBase", logDefs=QUIET)
    echo = system.createActor(Echo)

    def one(n: int) -> None:
        for _ in range(n):
            system.ask(echo, MESSAGE, PATIENCE_S)

    def many(n: int) -> None:
        for _ in range(-(-n // 64)):
            for _ in range(64):
                system.tell(echo, MESSAGE)
            for _ in range(64):
                system.listen(PATIENCE_S)

    one(1)
    figures = {FIRST: since_start(), LOCAL: rate(one), LOCAL_64: rate(many)}
    before, stretch = resident(), Stretch()
    actors = [system.createActor(Echo) for _ in range(ACTORS // 5)]
    spent = stretch.spent
    figures |= {START: len(actors) / spent, MEMORY: (resident() - before) / len(actors)}
    system.shutdown()
    tell(figures)


main()
