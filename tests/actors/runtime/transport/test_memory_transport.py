"""Within a process a message may cross as it is, or as bytes: the same answers, the same order."""

from __future__ import annotations

from typing import Any

import pytest

from actors.runtime.actor import Actor, Runtime
from actors.runtime.transport.memory import TRANSPORTS, Packed, connect
from protocol.errors import LevelGone, LocalProtocolError, OutcomeUnknown


def same(value: Any) -> Any:
    return value


class Answers:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def __call__(self, value: object, error: BaseException | None) -> None:
        self.got.append(value if error is None else error)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport_gives_the_same_answer_at_once(runtime: Runtime, transport: str) -> None:
    port, answers = connect(Actor("te", lambda m: [*m, "seen"], runtime), transport, same, same), Answers()
    port.submit([1, b"\xff", None], answers)
    assert answers.got == [[1, b"\xff", None, "seen"]]


async def test_nothing_but_bytes_crosses(runtime: Runtime) -> None:
    sent = [1, [2]]
    port, answers = Packed(Actor("te", same, runtime), same, same), Answers()
    port.submit(sent, answers)
    assert answers.got == [sent]
    assert answers.got[0] is not sent
    assert answers.got[0][1] is not sent[1]
    assert port.frames == 2
    assert port.bytes_carried > 0


async def test_messages_are_translated_there_and_back(runtime: Runtime) -> None:
    seen: list[complex] = []

    def handler(message: complex) -> complex:
        seen.append(message)
        return message * 1j

    port = Packed(Actor("te", handler, runtime), lambda z: [z.real, z.imag], lambda pair: complex(*pair))
    answers = Answers()
    port.submit(2 + 3j, answers)
    assert seen == [2 + 3j]
    assert answers.got == [(2 + 3j) * 1j]


async def test_a_message_without_a_form_is_the_senders_mistake(runtime: Runtime) -> None:
    with pytest.raises(LocalProtocolError):
        Packed(Actor("te", same, runtime), same, same).submit(object(), Answers())


async def test_an_answer_without_a_form_was_still_handled(runtime: Runtime) -> None:
    answers = Answers()
    Packed(Actor("te", lambda _m: object(), runtime), same, same).submit(1, answers)
    assert [type(answer) for answer in answers.got] == [OutcomeUnknown]


async def test_errors_cross_as_they_are(runtime: Runtime) -> None:
    actor, answers = Actor("te", same, runtime), Answers()
    actor.stop()
    Packed(actor, same, same).submit(1, answers)
    assert [type(answer) for answer in answers.got] == [LevelGone]


def test_an_unknown_transport_is_named_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="memory, packed"):
        connect(Packed(None, same, same), "pigeon", same, same)  # type: ignore[arg-type]
