"""Mistakes that somebody could make in the hosting service, whatever the machine under it. A plain module."""

from __future__ import annotations

from typing import Any

from checkers import Mutation, Patch, Trial

from protocol.hosting import Gathering
from protocol.hosting.in_steps import InSteps
from protocol.hosting.registry import Registry
from protocol.soak import hosted


def a_start_that_is_asked_again_names_another_child(patch: Patch) -> None:
    real = InSteps._again

    def again(self: InSteps, *arguments: Any) -> Any:
        body = yield from real(self, *arguments)
        return body | {"child": self._registry._new_id()}

    patch.setattr(InSteps, "_again", again)


def a_key_is_used_twice(patch: Patch) -> None:
    """Whoever starts again with a key is not seen to have done so: the service's own books notice first."""
    patch.setattr(InSteps, "_replayed", lambda *_: None)


def a_stranger_finds_a_child(patch: Patch) -> None:
    """Whoever asks for a child by its name gets it."""
    real = Registry.find

    def find(self: Registry, requester: Any, name: bytes) -> Any:
        return self.children.get(name) or real(self, requester, name)

    patch.setattr(Registry, "find", find)


def what_was_not_durable_is_answered(patch: Patch) -> None:
    """Replies do not wait for the disk, which is slow; then the process dies."""
    patch.setattr(Gathering, "after", lambda _self, then: then())
    patch.setattr(hosted, "COMMITS", 0.002)


SERVED = Trial(1, episode=0, steps=10_000)

MUTATIONS = (
    Mutation("episode.one", a_key_is_used_twice, SERVED),
    Mutation("requester._strange", a_stranger_finds_a_child, SERVED),
)
