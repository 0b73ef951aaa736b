"""What a requester may be answered after what it was answered before: the model that soaks hold to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from protocol.soak.options import Tally, Violation
from protocol.soak.requester import ENDING, UNKNOWN, UP, Asked, Requester

MINE, OTHER, GONE = b"mine" * 4, b"othe" * 4, b"gone" * 4


@dataclass
class Host:
    """The L0 that they ask: its clock, and who else asks it."""

    seed: str = "1"
    name: str = "l0"
    allowed: frozenset[str] = frozenset()
    tally: Tally = field(default_factory=Tally)
    now_ms: int = 1_000
    requesters: list[Requester] = field(default_factory=list)


class Talk:
    """One requester with a lease, whose child `MINE` was promised; a sibling has `OTHER`."""

    def __init__(self) -> None:
        host: Any = Host()
        self.host = host
        self.one = Requester("r0", 3, host, welcome=True, image=True, lease_until=30_000)
        sibling = Requester("r1", 4, host)
        host.requesters += [self.one, sibling]
        self.one.children[MINE] = UP
        self.one.gone.add(GONE)
        sibling.children[OTHER] = UP

    def answered(self, kind: str, t: str = "ok", about: dict[str, Any] | None = None, **body: Any) -> None:
        rid = len(self.one.asked).to_bytes(16, "big")
        said = about or {}
        frame = {"t": said.pop("t", kind)}
        self.one.asked[rid] = Asked(kind, frame, self.host.now_ms, 0, **said)
        self.one.receive((self.one.who, {"rid": rid, "t": t, "b": body}))

    def refused(self, kind: str, name: str, **about: Any) -> None:
        self.answered(kind, "err", about, name=name)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def listed(*children: bytes) -> dict[str, Any]:
    return {"children": [{"child": child, "state": "READY"} for child in children]}


def test_one_key_is_one_child(talk: Talk) -> None:
    talk.answered("start", about={"key": b"k"}, child=MINE, state="READY")
    talk.answered("start", about={"key": b"k"}, child=MINE, state="READY")
    with pytest.raises(Violation, match="one key, two children"):
        talk.answered("start", about={"key": b"k"}, child=GONE, state="READY")


def test_two_requesters_have_no_child_in_common(talk: Talk) -> None:
    with pytest.raises(Violation, match="r0 and r1 have one child"):
        talk.answered("start", about={"key": b"k"}, child=OTHER, state="READY")


def test_a_late_answer_to_a_start_does_not_bring_back_what_is_being_destroyed(talk: Talk) -> None:
    talk.one.children[MINE] = ENDING
    talk.answered("start", about={"key": b"k"}, child=MINE, state="READY")
    talk.answered("start", about={"key": b"g"}, child=GONE, state="READY")
    assert talk.one.children == {MINE: ENDING}


@pytest.mark.parametrize(
    ("children", "said"),
    [
        ((MINE, GONE), "was destroyed, and is READY"),
        ((), "was promised, and is not there"),
        ((MINE, OTHER), "is shown the child of another"),
    ],
    ids=["destroyed", "missing", "strange"],
)
def test_a_list_that_cannot_be_is_a_violation(talk: Talk, children: tuple[bytes, ...], said: str) -> None:
    certain = {"must": frozenset((MINE,)), "gone": frozenset((GONE,))}
    talk.answered("list", about=dict(certain), **listed(MINE))
    with pytest.raises(Violation, match=said):
        talk.answered("list", about=dict(certain), **listed(*children))


def test_what_was_promised_is_found_as_long_as_the_lease_holds(talk: Talk) -> None:
    with pytest.raises(Violation, match="was promised, and is not found"):
        talk.refused("describe", "NOT_FOUND", child=MINE)
    talk.host.now_ms = 30_000
    talk.refused("describe", "NOT_FOUND", child=MINE)
    assert talk.one.children == {MINE: UNKNOWN}
    talk.answered("list", about={"must": frozenset((MINE,))}, **listed())


@pytest.mark.parametrize(
    ("name", "children", "gone"),
    [("NOT_FOUND", {}, {GONE, MINE}), ("BUSY_RELEASING", {MINE: UNKNOWN}, {GONE})],
)
def test_a_destroy_that_is_refused_says_that_it_is_gone_or_nothing(
    talk: Talk, name: str, children: dict[bytes, str], gone: set[bytes]
) -> None:
    talk.one.children[MINE] = ENDING
    talk.refused("destroy", name, child=MINE)
    assert (talk.one.children, talk.one.gone) == (children, gone)


@pytest.mark.parametrize("kind", ["stop", "reset"])
def test_of_a_child_that_was_stopped_meanwhile_nothing_is_known(talk: Talk, kind: str) -> None:
    """A second answer to its start may have said that it is ready, after the stop was asked for."""
    talk.answered(kind, about={"child": MINE})
    assert talk.one.children == {MINE: UNKNOWN}
    talk.one.children[MINE] = ENDING
    talk.answered(kind, about={"child": MINE})
    talk.answered(kind, about={"child": GONE})
    assert talk.one.children == {MINE: ENDING}


@pytest.mark.parametrize("name", ["STALE_EPOCH", "HOST_RESTARTED", "LEASE_EXPIRED"])
def test_whoever_is_not_known_any_more_says_hello_again(talk: Talk, name: str) -> None:
    talk.refused("lease.renew", name)
    assert not talk.one.welcome


def test_a_strangers_child_is_answered_as_one_that_never_was(talk: Talk) -> None:
    about = {"child": OTHER, "key": b"foreign"}
    talk.answered("foreign", about={"t": "destroy", **about}, state="RELEASED")
    talk.answered("foreign", "err", {"t": "describe", **about}, name="NOT_FOUND")
    for t, body in (("ok", {"state": "READY"}), ("err", {"name": "BAD_STATE"})):
        with pytest.raises(Violation, match="about the child of another"):
            talk.answered("foreign", t, {"t": "describe", **about}, **body)


def test_answers_of_a_former_boot_and_second_answers_say_nothing(talk: Talk) -> None:
    talk.one.receive((talk.one.who, {"rid": bytes(16), "t": "ok", "b": listed(OTHER)}))
    talk.one.epoch = 2
    talk.one.receive((talk.host.requesters[1].who, {"rid": bytes(16), "t": "ok", "b": listed(OTHER)}))
    assert talk.host.tally.checks["hosting_history"] == 0
