"""An `Explainer` out of tables: what an architecture has to write down to be explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from protocol.calls import CallSpec
from protocol.explain import Meaning, number_of


def never(
    call: str,
    code: int,
    text: str,
    why: str,
    reason: int | None = None,
    source: str = "",
    basis: str = "source",
) -> Meaning:
    """A code that real firmware answers to a call and this emulator does not, with the reason why not."""
    return Meaning(code, text, call, reason, source=source, given=False, notes=(why,))


@dataclass(frozen=True)
class Knowledge:
    """See `protocol.explain.Explainer`. An architecture fills in the tables that it has.

    `general_codes` are those that every call may answer, `never_given` those of real firmware that are never
    given here. `any_error` says by call, `one_code` by call and code what software does with an answer; the
    second goes before the first. `covered` and `general_covered` are the record of the conformance suite: by
    call and place of the check in its row, and by general code.
    """

    general_codes: Sequence[Meaning] = ()
    never_given: Sequence[Meaning] = ()
    any_error: Mapping[str, Sequence[str]] = field(default_factory=dict)
    one_code: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    covered: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    general_covered: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def read(self, text: str) -> int | None:
        """A number from zero. One with names for its codes reads those, too."""
        return number_of(text)

    def name(self, code: int, call: CallSpec | None) -> str:
        """None has a name, unless an architecture says so."""
        return ""

    def possible(self, code: int, call: CallSpec) -> bool:
        """Whether a call can answer a general code."""
        return True

    def general(self, code: int, call: CallSpec | None) -> list[Meaning]:
        """A general code, if the call can answer it."""
        return [
            replace(one, tests=tuple(self.general_covered.get(code, ())), name=self.name(code, call))
            for one in self.general_codes
            if one.code == code and (call is None or self.possible(code, call))
        ]

    def elsewhere(self, call: CallSpec) -> list[Meaning]:
        """Codes of real firmware that are never given here."""
        mine = (one for one in self.never_given if one.call == call.name)
        return [replace(one, name=self.name(one.code, call)) for one in mine]

    def notes(self, call: CallSpec, code: int, reason: int) -> Sequence[str]:
        """What software does."""
        return self.one_code.get((call.name, code)) or self.any_error.get(call.name, ())

    def tests(self, call: CallSpec, place: int) -> Sequence[str]:
        """Out of the record that `docs/build.py --measure` makes."""
        return self.covered.get((call.name, place), ())

    def plain(self, code: int) -> tuple[int, Sequence[str]]:
        """Every bit is part of the code."""
        return code, ()
