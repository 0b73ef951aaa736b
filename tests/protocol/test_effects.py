"""Steps: what runs inline runs to its end, what yields is not run inline by mistake."""

from __future__ import annotations

import pytest

from protocol.effects import Fault, Idle, Issue, Park, Step, issue, parked, run
from protocol.errors import LocalProtocolError


def inline(value: int) -> Step[int]:
    return value
    yield


def asking() -> Step[str]:
    reply = yield from issue("call", 1, 2)
    return f"got {reply}"


def test_a_step_that_never_yields_is_run_inline() -> None:
    assert run(inline(7)) == 7


def test_a_fault_is_a_result_like_any_other() -> None:
    fault = Fault(0x3D, "secure-storage-access", 0x1000)

    def refused() -> Step[Fault]:
        return fault
        yield

    assert run(refused()) is fault


def test_a_step_that_has_to_wait_cannot_be_run_inline() -> None:
    with pytest.raises(LocalProtocolError, match=r"yielded Issue\(operation='call', arguments=\(1, 2\)\)"):
        run(asking())


def test_what_a_step_raises_comes_out() -> None:
    def broken() -> Step[None]:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        run(broken())


def test_an_answer_is_sent_to_where_it_was_asked_for() -> None:
    step = asking()
    assert next(step) == Issue("call", (1, 2))
    with pytest.raises(StopIteration) as end:
        step.send("an answer")
    assert end.value.value == "got an answer"


def test_an_error_is_thrown_to_where_it_was_asked_for() -> None:
    def careful() -> Step[str]:
        try:
            yield from issue("call")
        except ConnectionError:
            return "undone"
        return "done"

    step = careful()
    next(step)
    with pytest.raises(StopIteration) as end:
        step.throw(ConnectionError())
    assert end.value.value == "undone"


@pytest.mark.parametrize(("wanted", "effects"), [(True, [Park()]), (False, [])])
def test_a_step_stops_only_for_who_wanted_it(wanted: bool, effects: list[object]) -> None:
    assert list(parked(wanted)) == effects


def test_effects_are_values() -> None:
    assert Issue("call", (1,)) == Issue("call", (1,))
    assert Issue("call", (1,)) != Issue("enter", (1,))
    assert len({Park(), Park(), Idle()}) == 2
    with pytest.raises(AttributeError):
        Issue("call", ()).operation = "enter"  # type: ignore[misc]
