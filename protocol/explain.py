"""What a return code of a call means: out of the call table, and out of what an architecture knows beyond it.

An architecture needs nothing for this but its call table. One that knows more (codes that every call may
answer, what operating systems do with an answer, which test covers a check) has an `Explainer` as `explain`
of its slice; `protocol.knowledge` makes one out of tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocol.calls import CallSpec


@dataclass(frozen=True, slots=True)
class Meaning:
    """One reason why a call answers a code. `call` is "" for a code that any call may answer.

    `name` is the code's in its document, where it has one; `place` says when it is looked at, `given` whether
    this emulator answers it at all.
    """

    code: int
    text: str
    call: str = ""
    reason: int | None = None
    place: str = ""
    basis: str = "source"
    source: str = ""
    given: bool = True
    tests: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""

    def shown(self) -> str:
        """The code as people read it: its number behind its name, where it has one."""
        return f"{self.name} ({hexadecimal(self.code)})" if self.name else hexadecimal(self.code)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it. Codes are texts, as on the console."""
        return {
            "call": self.call or None,
            "code": hexadecimal(self.code),
            "name": self.name or None,
            "reason": None if self.reason is None else hexadecimal(self.reason),
            "check": self.text,
            "place": self.place,
            "basis": self.basis,
            "source": self.source,
            "given": self.given,
            "tests": list(self.tests),
            "notes": list(self.notes),
        }


class Explainer(Protocol):
    """What an architecture knows beyond its call table."""

    def read(self, text: str) -> int | None:
        """The code that somebody wrote, as a number or by its name; None for what is neither."""
        ...

    def name(self, code: int, call: CallSpec | None) -> str:
        """What the architecture's document calls the code, "" if nothing."""
        ...

    def general(self, code: int, call: CallSpec | None) -> Sequence[Meaning]:
        """What `code` means whatever the call; only where `call`, if one is named, can answer it."""
        ...

    def elsewhere(self, call: CallSpec) -> Sequence[Meaning]:
        """Codes that real firmware answers to this call, and this emulator does not."""
        ...

    def notes(self, call: CallSpec, code: int, reason: int) -> Sequence[str]:
        """What operating systems and machine monitors do with this answer."""
        ...

    def tests(self, call: CallSpec, place: int) -> Sequence[str]:
        """Which tests provoke check number `place` of the row."""
        ...

    def plain(self, code: int) -> tuple[int, Sequence[str]]:
        """The code without bits that are no part of it, and what those said."""
        ...


@dataclass(frozen=True, slots=True)
class Unknown(Exception):
    """Nothing answers that. `known` has what the question could have been about instead."""

    message: str
    known: tuple[Meaning, ...] = field(default=())

    def __str__(self) -> str:
        return self.message


def hexadecimal(code: int) -> str:
    """A code as people write it."""
    return f"0x{code:04X}"


def explain(
    calls: Mapping[int, CallSpec], explainer: Explainer | None, question: str
) -> tuple[tuple[Meaning, ...], tuple[str, ...]]:
    """Answer `CALL:RC[:RRC]`, `RC[:RRC]` or `CALL`: all that it may mean, and remarks. Raises Unknown."""
    parts = question.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise Unknown(f"{question}: allowed: CALL:RC, CALL:RC:RRC, RC, or CALL alone")
    if len(parts) == 1:
        return _alone(calls, explainer, parts[0])
    call = _call(calls, parts[0])
    if call is None:
        return _without_call(calls, explainer, parts)
    code, *rest = (_number(part, explainer) for part in parts[1:])
    plain, remarks = explainer.plain(code) if explainer is not None else (code, ())
    known = tuple(of_call(call, explainer))
    general = explainer.general(plain, call) if explainer is not None else ()
    found = [*general, *(one for one in known if one.code == plain)]
    if rest and rest[0] and found and all(one.reason is None for one in found):
        remarks = (*remarks, "no source gives this code reasons; here the reason is 0")
    elif rest:
        found = [one for one in found if (one.reason or 0) == rest[0]]
    if not found:
        asked = ":".join((_shown(code, call, explainer), *map(hexadecimal, rest)))
        raise Unknown(f"{call.name} does not answer {asked}", known)
    return tuple(found), tuple(remarks)


def of_call(call: CallSpec, explainer: Explainer | None) -> Iterator[Meaning]:
    """Everything that one call answers beside what every call may."""
    for at, check in enumerate(call.checks):
        more = () if explainer is None else explainer.notes(call, check.code, check.reason)
        yield Meaning(
            check.code,
            check.text,
            call.name,
            check.reason or None,
            f"check {at + 1} of {len(call.checks)} of this call",
            check.basis.value,
            call.source,
            tests=() if explainer is None else tuple(explainer.tests(call, at)),
            notes=tuple(more),
            name="" if explainer is None else explainer.name(check.code, call),
        )
    if explainer is not None:
        yield from explainer.elsewhere(call)


def _alone(
    calls: Mapping[int, CallSpec], explainer: Explainer | None, text: str
) -> tuple[tuple[Meaning, ...], tuple[str, ...]]:
    """A code without a call is every call's; a name, or a number that is no code, is a call's."""
    call = _call(calls, text)
    code = _read(text, explainer)
    if code is None:
        if call is None:
            allowed = ", ".join(row.name for row in calls.values())
            raise Unknown(f"{text}: no code and no call; calls are {allowed}")
        return tuple(of_call(call, explainer)), ()
    plain, remarks = explainer.plain(code) if explainer is not None else (code, ())
    found = [*(explainer.general(plain, None) if explainer is not None else ())]
    found += [one for row in calls.values() for one in of_call(row, explainer) if one.code == plain]
    if call is not None:
        hint = f"{text} is the code of the call {call.name}, too: ask for {call.name} to see its answers"
        if not found:
            return tuple(of_call(call, explainer)), tuple(remarks)
        remarks = (*remarks, hint)
    if not found:
        raise Unknown(f"no call answers {_shown(code, None, explainer)}")
    return tuple(found), tuple(remarks)


def _without_call(
    calls: Mapping[int, CallSpec], explainer: Explainer | None, parts: Sequence[str]
) -> tuple[tuple[Meaning, ...], tuple[str, ...]]:
    """A code and its reason, whatever the call; if no call answers the two together, each as a code."""
    first, *rest = parts
    try:
        if len(rest) != 1:
            raise Unknown(first)
        found, remarks = _alone(calls, explainer, first)
        reason = _number(rest[0], explainer)
        together = tuple(one for one in found if one.reason == reason)
        if together:
            return together, (*remarks, f"{first} is no call: these answer it for this reason")
        others, more = _alone(calls, explainer, rest[0])
    except Unknown:
        names = ", ".join(row.name for row in calls.values())
        raise Unknown(f"{first}: no such call; allowed: {names}") from None
    both = f"{first} is no call, and no call answers it for reason {rest[0]}: both are read as codes"
    return (*found, *others), (*remarks, *more, both)


def _call(calls: Mapping[int, CallSpec], text: str) -> CallSpec | None:
    number = number_of(text)
    if number is not None:
        return calls.get(number)
    return next((row for row in calls.values() if row.name == text), None)


def _number(text: str, explainer: Explainer | None) -> int:
    code = _read(text, explainer)
    if code is None:
        names = "" if explainer is None or not explainer.name(0, None) else ", or a code by its name"
        raise Unknown(f"{text}: allowed: a number like 0x0104{names}")
    return code


def _read(text: str, explainer: Explainer | None) -> int | None:
    return number_of(text) if explainer is None else explainer.read(text)


def _shown(code: int, call: CallSpec | None, explainer: Explainer | None) -> str:
    name = "" if explainer is None else explainer.name(code, call)
    return Meaning(code, "", name=name).shown()


def number_of(text: str) -> int | None:
    """A number from zero, in any of Python's bases; None for what is none."""
    try:
        number = int(text, 0)
    except ValueError:
        return None
    return number if number >= 0 else None
