"""A life of a part, from its fork on: on a busy machine it may take long to say its first word."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import trio
from trio.testing import MockClock

from actors.deployment import words
from actors.deployment.life import STARTING_S, begin
from actors.deployment.parts import Part, Role
from actors.deployment.place import Place
from actors.deployment.process import Assignment
from actors.deployment.settings import Deployment, scenario_of
from actors.runtime.forker import Forker, Process
from actors.runtime.link import Link
from actors.runtime.port import Deliver
from actors.runtime.transport.unix import adopt

PART = Part("l0-0", Role.MACHINE, 0)


class Forks:
    """Starts nothing: the other end of the lifeline stays here."""

    lifeline = -1

    async def start(self, _request: dict[str, Any], files: Sequence[int]) -> Process:
        self.lifeline = os.dup(files[0])
        return Process(-1, -1)


async def test_a_part_that_says_its_first_word_late_is_not_given_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    deployment, forks = Deployment(), Forks()
    place = Place(tmp_path)
    assignment = Assignment(deployment, scenario_of(deployment).scenario, (PART,), place, tmp_path, {})

    def serve(_target: str, _message: object, deliver: Deliver) -> None:
        deliver({"ready": True, "port": 1}, None)

    async with trio.open_nursery() as nursery:
        life = await begin(nursery, cast(Forker, forks), assignment, PART, 1)
        await trio.sleep(STARTING_S * 0.9)
        codec = words.codec()
        nursery.start_soon(Link(adopt(forks.lifeline), serve, encode=codec.encode, decode=codec.decode).run)
        with trio.fail_after(STARTING_S):
            await life.ready.wait()
        assert life.link.violation is None
        nursery.cancel_scope.cancel()
        life.process.watched.set()
        life.scope.cancel()
