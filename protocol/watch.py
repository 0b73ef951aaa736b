"""Which level refused a call, by which check: the levels of one console, looked at from outside.

Nothing here is in the way of a console that nobody asked to explain itself: the levels of one that is asked
get their deciding methods wrapped, one by one, as instances. A call of a level is then driven from here, and
whichever is driven is on top of a stack; so what a level asks of the one below is known to be for that call.
A code that the level below answered and this one hands on is that level's, down to where it was decided.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from protocol.calls import CallSpec
from protocol.effects import Step

T = TypeVar("T")
BUSY = "another call holds what this one needs"
NO_CHECK = "no check of the call table"


@dataclass(frozen=True, slots=True)
class Decided:
    """One refusal. `number` is the level's, 0 the machine; `places` those of its check in the row.

    There is more than one place where several checks of the row have this code and nothing says which it was.
    `general`: a check that every call makes, whatever its row.
    """

    number: int
    call: str
    code: int
    reason: int
    places: tuple[int, ...]
    text: str
    basis: str
    general: bool = False
    serial: int = 0

    @property
    def level(self) -> str:
        """The machine is L0's; an emulation is named by the host that meets it."""
        return f"emulation at L{self.number}" if self.number else "L0 machine"


@dataclass(slots=True)
class Asked:
    """One call of a level while it is under way: what levels below refused for it, what the level found."""

    level: Any
    below: list[Decided] = field(default_factory=list)
    begun: bool = False  # it has come to the call's own checks
    why: str = ""  # the text of the check that refused, where the level says it by itself


class Watch:
    """All refusals of the levels that it is attached to."""

    def __init__(self) -> None:
        self.serial = 0
        self._last: dict[int, Decided] = {}
        self._attached: list[Any] = []
        self._stack: list[Asked] = []

    # -- what an architecture says ---------------------------------------------------------------------------

    @abstractmethod
    def hook(self, level: Any) -> None:
        """Wrap what decides in a level."""

    # -- what it uses ----------------------------------------------------------------------------------------

    def attach(self, level: Any) -> None:
        """Watch a level; once is enough."""
        if not any(level is each for each in self._attached):
            self._attached.append(level)
            self.hook(level)

    @property
    def current(self) -> Asked | None:
        """The call that is driven just now."""
        return self._stack[-1] if self._stack else None

    def around(self, level: Any, step: Step[T], ended: Callable[[Asked, T], None]) -> Step[T]:
        """The same step, driven from here. `ended` is told what it came to."""
        asked, above = Asked(level), self.current
        reply: Any = None
        error: BaseException | None = None
        while True:
            self._stack.append(asked)
            try:
                effect = step.send(reply) if error is None else step.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                break
            finally:
                self._stack.pop()
            reply, error = None, None
            try:
                reply = yield effect
            except BaseException as thrown:
                error = thrown
        before = self.serial
        ended(asked, result)
        if above is not None and self.serial > before:
            above.below.append(self._last[id(level)])
        return result

    def refused(self, asked: Asked, found: Decided, own: bool = False) -> None:
        """A call was refused; `found` is how the level itself would have. `own`: and it was it."""
        handed = [one for one in asked.below if (one.code, one.reason) == (found.code, found.reason)]
        if handed and not own:
            below = handed[-1]
            found = replace(below, call=found.call)
        self.keep(asked.level, found)

    def keep(self, level: Any, found: Decided) -> None:
        """Remember what a level answered last."""
        self.serial += 1
        self._last[id(level)] = replace(found, serial=self.serial)

    def last(self, level: Any) -> Decided | None:
        """How this level refused last."""
        return self._last.get(id(level))


def at_once(result: T) -> Step[T]:
    """A step that is over."""
    yield from ()
    return result


def number_of(level: Any) -> int:
    """0 for the machine, otherwise that of the host that meets the level."""
    number: int = getattr(level, "level", 0)
    return number


def by_row(
    level: Any, row: CallSpec, code: int, reason: int = 0, places: Sequence[int] | None = None
) -> Decided:
    """A refusal by a check of the call's row; of which there is none, if `places` is empty."""
    if places is None:
        places = [at for at, each in enumerate(row.checks) if (each.code, each.reason) == (code, reason)]
    checks = [row.checks[at] for at in places]
    text = ", or ".join(dict.fromkeys(check.text for check in checks)) or NO_CHECK
    basis = checks[0].basis.value if checks else "inferred"
    return Decided(number_of(level), row.name, code, reason, tuple(places), text, basis)


def by_dispatcher(level: Any, call: str, code: int, text: str) -> Decided:
    """A refusal by a check that every call makes."""
    return Decided(number_of(level), call, code, 0, (), text, "source", general=True)


class Console(Protocol):
    """The keyboard that is watched."""

    @property
    def seats(self) -> Sequence[Any]: ...
    @property
    def levels(self) -> Sequence[Any]: ...
    def answer(self, request: dict[str, Any]) -> dict[str, Any]: ...


class WatchedKeyboard:
    """A keyboard whose answers carry an `explain` where the call was refused. `ops`: those that call."""

    ops: tuple[str, ...] = ("call", "resume")

    def __init__(self, keyboard: Console, watch: Watch) -> None:
        self._keyboard = keyboard
        self.watch = watch

    def body(self, found: Decided) -> dict[str, Any]:
        """What an answer says of a refusal."""
        return {"level": found.level, "check": found.text, "call": found.call, "basis": found.basis}

    def unsaid(self, level: Any, answer: dict[str, Any]) -> dict[str, Any] | None:
        """What is said of an answer for which no check was seen to refuse."""
        return None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request. A fresh host may have taken a seat since the last one."""
        if request.get("op") not in self.ops:
            return self._keyboard.answer(request)
        for level in (*self._keyboard.levels, *(seat.level for seat in self._keyboard.seats)):
            self.watch.attach(level)
        before = self.watch.serial
        answer = self._keyboard.answer(request)
        if "ok" not in answer:
            return answer
        host = request.get("host", 0)
        level = self._keyboard.seats[int(host, 16) if isinstance(host, str) else host].level
        found = self.watch.last(level)
        fresh = found is not None and found.serial > before
        body = self.body(found) if found is not None and fresh else self.unsaid(level, answer)
        return answer if body is None else answer | {"explain": body}
