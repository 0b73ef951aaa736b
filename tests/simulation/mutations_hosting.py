"""Mistakes that somebody could make in the hosting service, whatever the machine under it. A plain module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mutations
from checkers import Mutation, Patch, Trial

from protocol.hosting import Service
from protocol.hosting.at_once import AtOnce
from protocol.hosting.in_steps import InSteps
from protocol.hosting.machine import Await
from protocol.hosting.registry import Registry
from protocol.soak.options import LIVENESS


def a_key_is_used_twice(patch: Patch) -> None:
    """Whoever starts again with a key is not seen to have done so: the service's own books notice first."""
    patch.setattr(InSteps, "_replayed", lambda *_: None)


def a_stranger_finds_a_child(patch: Patch) -> None:
    """Whoever asks for a child by its name gets it."""
    real = Registry.find

    def find(self: Registry, requester: Any, name: bytes) -> Any:
        return self.children.get(name) or real(self, requester, name)

    patch.setattr(Registry, "find", find)


def two_children_have_one_name(patch: Patch) -> None:
    real = Registry._new_id

    def new_id(self: Registry) -> bytes:
        name = real(self)
        return b"one and the same" if self.made % 2 else name

    patch.setattr(Registry, "_new_id", new_id)


def a_list_has_the_children_of_all(patch: Patch) -> None:
    real = AtOnce._list

    def listed(self: AtOnce, requester: Any, request: Any, body: Any) -> Any:
        every = [real(self, one, request, body) for one in self._registry.requesters.values()]
        return {"children": [child for one in every for child in one["children"]], "after": None}

    patch.setattr(AtOnce, "_list", listed)


def a_list_has_what_is_no_more(patch: Patch) -> None:
    real = AtOnce._list

    def listed(self: AtOnce, requester: Any, request: Any, body: Any) -> Any:
        return real(self, requester, request, replace(body, exited=True))

    patch.setattr(AtOnce, "_list", listed)


def a_list_leaves_one_out(patch: Patch) -> None:
    real = AtOnce._list

    def listed(self: AtOnce, requester: Any, request: Any, body: Any) -> Any:
        found = real(self, requester, request, body)
        return found | {"children": found["children"][1:]}

    patch.setattr(AtOnce, "_list", listed)


def a_request_is_never_answered(patch: Patch) -> None:
    """Whoever asks what there is waits for something to change, and for ever."""
    real = Service.handle

    def handle(self: Service, who: Any, frame: Any, now_ms: int) -> Any:
        while frame["t"] == "list":
            yield Await(1 << 62)
        return (yield from real(self, who, frame, now_ms))

    patch.setattr(Service, "handle", handle)


def a_guest_that_should_end_runs_on(patch: Patch) -> None:
    mutations.a_guest_that_should_end_runs_on(patch, "pef")


SERVED = Trial(1, episode=0, steps=10_000)

MUTATIONS = (
    Mutation("episode.one", a_key_is_used_twice, SERVED),
    Mutation("requester._strange", a_stranger_finds_a_child, SERVED),
    Mutation("l0guests._act", two_children_have_one_name, SERVED),
    Mutation("requester._listed/1", a_list_has_what_is_no_more, SERVED),
    Mutation("requester._listed/2", a_list_leaves_one_out, SERVED),
    Mutation("requester._listed/3", a_list_has_the_children_of_all, SERVED),
    Mutation("hosted.live_out", a_request_is_never_answered, Trial(1, episode=0, mode=LIVENESS)),
    Mutation("hosted._settle", a_guest_that_should_end_runs_on, mutations.WITH_A_SERVICE),
)
