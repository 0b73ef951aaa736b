"""One key, asked again and again, in every order: it never answers two children.

Each story is a list of moves. All stories are told: whenever more than one move is possible, there is one
story for each. A move lets the next request begin, has the machine answer one that stands still, well or
badly, or has the service die and come back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.hosting import Identity, Limits, Service, SimulatedDisk
from protocol.hosting.idempotency import Key
from protocol.hosting.machine import (
    Await,
    CreateGuest,
    DestroyGuest,
    Found,
    Inventory,
    TeError,
    Vanished,
)

IMAGE = b"an image"
SPEC = {"image": hashlib.sha256(IMAGE).digest(), "vcpus": 1, "memory_mib": 64}
WHO, KEY = Identity(3, 1), Key(1, 1).packed()
NO = TeError("any", 1)
MOST = 40  # moves of a story: beyond that somebody waits for ever

Move = tuple[str, int]


class Told:
    """One story so far: what was asked, what stands still where, which children the key answered."""

    def __init__(self, script: tuple[str, ...], failures: int, deaths: int) -> None:
        self.script, self.failures, self.deaths = script, failures, deaths
        self.guests: set[bytes] = set()
        self.parked: dict[int, tuple[Any, Any, int]] = {}  # request -> step, effect, version when it stopped
        self.answered: list[bytes] = []
        self.child = bytes(16)  # that the key answered first
        self.asked = 0
        self.disk = SimulatedDisk()
        self.begin()

    def begin(self) -> None:
        self.service = Service(Limits(), self.disk.journal, seed=1)
        self.through(self.service.recover(self.disk.rows(), 1_000))
        self.ask("hello", versions=[1])
        self.ask("image.put", digest=SPEC["image"], size=len(IMAGE), offset=0, data=IMAGE)

    def moves(self) -> Iterator[Move]:
        """What can happen now. A wait goes on when something has changed."""
        if self.asked < len(self.script):
            yield "begin", self.asked
        for request, (_, effect, version) in self.parked.items():
            if not isinstance(effect, Await):
                yield "done", request
                if self.failures:
                    yield "fails", request
            elif self.service.version != version:
                yield "done", request
        if self.deaths and self.asked:
            yield "dies", 0

    def move(self, kind: str, request: int) -> None:
        if kind == "begin":
            self.asked += 1
            word = self.script[request]
            body = {"child": self.child} if word in ("destroy", "reset") else {"spec": SPEC, "mode": word}
            name = word if word in ("destroy", "reset") else "start"
            self.on(request, self.handle(name, KEY if name == "start" else None, **body), None)
        elif kind == "dies":
            self.deaths -= 1
            self.parked.clear()
            self.disk = self.disk.crash()
            self.begin()
            for step in self.service.tick(1_000):
                self.through(step)
        else:
            step, effect, _ = self.parked.pop(request)
            self.failures -= kind == "fails"
            self.on(request, step, NO if kind == "fails" else self.perform(effect))

    def on(self, request: int, step: Any, answer: Any) -> None:
        try:
            effect = step.send(answer)
        except StopIteration as stop:
            self.disk.flush()
            self.look_at(stop.value)
            return
        self.disk.flush()
        self.parked[request] = (step, effect, self.service.version)

    def look_at(self, reply: Any) -> None:
        body = reply["b"]
        if reply["t"] == "ok" and "replayed" in body:
            self.answered.append(body["child"])
            self.child = self.answered[0]
            assert len(set(self.answered)) == 1, "the key answered two children"
            if "reset" not in self.script:
                assert body["state"] not in ("LOADING", "STARTING", "FAILED"), "its outcome was not known yet"

    def perform(self, effect: Any) -> Any:
        if isinstance(effect, Await):
            return 1_000
        if isinstance(effect, Inventory):
            return {name: Found(True) for name in self.guests}
        if isinstance(effect, CreateGuest):
            self.guests.add(effect.child)
            assert len(self.guests) == 1, "the key made two guests"
        elif effect.child not in self.guests:
            return Vanished()
        elif isinstance(effect, DestroyGuest):
            self.guests.discard(effect.child)
        return None

    def handle(self, kind: str, key: bytes | None = None, **body: Any) -> Any:
        frame = {"v": 1, "t": kind, "rid": b"r" * 16, "epoch": 1, "dl": None, "key": key, "b": body}
        return self.service.handle(WHO, frame, 1_000)

    def ask(self, kind: str, **body: Any) -> None:
        self.through(self.handle(kind, **body))

    def through(self, step: Any) -> None:
        answer = None
        while True:
            try:
                effect = step.send(answer)
            except StopIteration:
                return self.disk.flush()
            self.disk.flush()
            answer = self.perform(effect)


def stories(script: tuple[str, ...], failures: int, deaths: int) -> int:
    """Tell them all; return how many there are."""
    told, open_ends = 0, [()]
    while open_ends:
        moves: tuple[Move, ...] = open_ends.pop()
        story = Told(script, failures, deaths)
        try:
            for move in moves:
                story.move(*move)
        except AssertionError as error:
            raise AssertionError(f"{error}: {' '.join(f'{kind}:{n}' for kind, n in moves)}") from error
        assert len(moves) < MOST
        more = list(story.moves())
        open_ends += [(*moves, move) for move in more]
        if not more:
            assert not story.parked, f"somebody waits for ever: {moves}"
            told += 1
    return told


@pytest.mark.parametrize(
    ("script", "failures", "deaths"),
    [
        (("run", "run", "run"), 1, 0),
        (("run", "run"), 2, 0),
        (("run", "run"), 1, 1),
        (("run", "destroy", "run"), 1, 0),
        (("reserve", "run", "run"), 1, 0),
        (("reserve", "run", "run"), 0, 1),
        (("run", "reset", "run"), 1, 1),
    ],
)
def test_a_key_never_answers_two_children(script, failures, deaths):
    assert stories(script, failures, deaths) > 10
