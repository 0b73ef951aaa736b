"""The module that the forking helper imports: what a part is made of, and how it begins its life."""

from __future__ import annotations

import importlib
from typing import Any

import trio

from actors.deployment import words
from actors.deployment.hosts import hosts
from actors.deployment.load import load
from actors.deployment.machine import machine
from actors.deployment.parts import Role
from actors.deployment.process import Assignment, live
from actors.deployment.settings import Deployment, scenario_of
from protocol.arch import load as slice_of
from protocol.codec import Codec

BODIES = {Role.MACHINE: machine, Role.HOSTS: hosts, Role.LOAD: load}


def preload(arch: str) -> None:
    """Import what a process of this architecture needs, by doing it once: before anything is forked."""
    settings = Deployment(arch=arch)
    scenario_of(settings)
    comparison = slice_of(arch).comparison
    assert comparison is not None
    comparison.image(0, 1, None)
    words.codec()
    Codec(comparison.wire)
    importlib.import_module("numpy.random")


def forked(request: dict[str, Any], files: list[int]) -> int:
    """Be the part that `request` describes. `files`: the lifeline."""
    assignment = Assignment.read(request["assignment"])
    return trio.run(live, assignment, BODIES, files[0])


__all__ = ["BODIES", "forked", "preload"]
