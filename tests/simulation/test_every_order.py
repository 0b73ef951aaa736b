"""A host that reboots or dies against its calls in flight and an asynchronous teardown: in every order.

The code itself is explored, not a model of it (`explorer`). The victim is cut at a message; then what serves
it, its teardown and its sibling's operation go on in every order that there is, and each state is looked at
once. What is a sample is which messages it is cut at: a `stride` of 1 is all of them. `./x endurance --only
orders` (`orders.py`) takes all of them everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from explorer import Case, cut_at, explore
from states import digest
from stories import CREATES, DESTROYS, ENDS, STARTS, STORIES, TOUCHES, Story

from protocol.arch.pef.nesting import teardown
from protocol.arch.s390.issue import Issuer
from protocol.arch.sev.nesting.port import Port
from protocol.arch.tdx.nesting.operands import Operands
from protocol.effects import Idle, Step
from protocol.memory.pool import Pool

Patch = pytest.MonkeyPatch


def test_a_creation_on_power_is_cut_at_every_message() -> None:
    found = explore(Story("pef", CREATES, STARTS).make, "reboot")
    assert found.cuts == 9
    assert len(found.follows) > 30
    assert found.orders > found.cuts
    assert 0 < len(found.ends) <= found.cuts, "whatever the order, it comes to the same"


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_host_is_cut_at_its_messages_and_all_goes_on_in_every_order(story: Story, how: str) -> None:
    found = explore(story.make, how, story.stride // 2, story.stride)
    print(f"{story}, {how}: {found.cuts} cuts, {len(found.follows)} states, {found.orders} orders")  # noqa: T201
    assert len(found.follows) > found.cuts
    assert found.ends


@pytest.mark.parametrize("arch", ["pef", "sev"])
def test_equal_states_have_one_digest_and_others_another(arch: str) -> None:
    """Made twice they are equal; a message further, or with other bytes in memory, they are not."""
    one, other = (Story(arch, CREATES, TOUCHES).make() for _ in range(2))
    assert cut_at(one, 3, "kill")
    assert cut_at(other, 3, "kill")
    same = digest(one.rig, one.threads)
    assert same == digest(other.rig, other.threads)
    one.threads[1].hop()
    assert digest(one.rig, one.threads) != same
    other.rig.seats[1].level.write(0x5000, b"a byte of memory")
    assert digest(other.rig, other.threads) != same


# -- each mistake is found -----------------------------------------------------------------------------------


def one_message_late(kind: type, name: str) -> Callable[[Patch], None]:
    """What came of a call below is taken note of after one more wait: too late where the host ends then."""

    def mistake(patch: Patch) -> None:
        real, made, there = getattr(kind, name), Case.__post_init__, [False]

        def late(self: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
            answer = yield from real(self, *arguments, **named)
            if there[0]:
                yield Idle()
            return answer

        def make(self: Case) -> None:
            there[0] = False  # the machine is put together in one go
            made(self)
            there[0] = True

        patch.setattr(kind, name, late)
        patch.setattr(Case, "__post_init__", make)

    return mistake


def a_teardown_gives_back_what_it_read_before(patch: Patch) -> None:
    """The free frames of the hypervisor are read when a teardown begins, and written when it ends."""
    real = Case._ends

    def ends(self: Case, *arguments: Any) -> Step[None]:
        pool: Pool = self.rig.seats[0].level.below.pool
        before = set(pool.listed().tolist())
        yield from real(self, *arguments)
        pool.give(sorted(before - set(pool.listed().tolist())))

    patch.setattr(Case, "_ends", ends)


def a_teardown_on_power_ends_nothing(patch: Patch) -> None:
    patch.setattr(teardown, "everything", lambda _nested, _cause: iter(()))


@pytest.mark.parametrize(
    ("arch", "doing", "beside", "mistake", "first"),
    [
        ("pef", DESTROYS, STARTS, a_teardown_on_power_ends_nothing, 4),
        pytest.param("s390", DESTROYS, STARTS, one_message_late(Issuer, "uvc"), 2, marks=pytest.mark.slow),
        ("sev", DESTROYS, STARTS, one_message_late(Port, "command"), 11),
        ("snp", DESTROYS, STARTS, one_message_late(Port, "command"), 11),
        ("tdx", DESTROYS, STARTS, one_message_late(Operands, "issue"), 20),
        ("pef", CREATES, STARTS, a_teardown_on_power_ends_nothing, 0),
        ("s390", CREATES, STARTS, one_message_late(Issuer, "uvc"), 2),
        ("sev", CREATES, STARTS, one_message_late(Port, "command"), 9),
        ("tdx", CREATES, STARTS, one_message_late(Operands, "issue"), 10),
        ("s390", CREATES, CREATES, a_teardown_gives_back_what_it_read_before, 0),
    ],
    ids=[
        *("pef, an end", "s390, an end", "sev, an end", "snp, an end", "tdx, an end"),
        *("pef", "s390", "sev", "tdx", "s390, in an order"),
    ],
)
def test_a_mistake_is_found(
    arch: str,
    doing: Any,
    beside: Any,
    mistake: Callable[[Patch], None],
    first: int,
    monkeypatch: Patch,
) -> None:
    """`first`: the first message at which the victim is cut; the mistake shows at that or soon after."""
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match=f"{arch}, cut at"):
        explore(Story(arch, doing, beside).make, "kill", first, 4)
