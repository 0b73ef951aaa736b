"""An explainer out of tables: what it says of a code that no architecture says more about."""

from __future__ import annotations

from protocol.calls import CallSpec, Category, Check, Issuer, Treatment, table
from protocol.explain import Meaning, explain
from protocol.knowledge import Knowledge, never

ROW = CallSpec(
    0x10,
    "make",
    "Make",
    Category.VM,
    Treatment.MODIFIED,
    "a reason",
    0x20,
    Issuer.HOST,
    "1.2",
    checks=(Check(0x101, "too large"),),
)
CALLS = table((ROW,))


def test_a_general_code_is_possible_for_every_call_and_has_no_name() -> None:
    explainer = Knowledge(general_codes=(Meaning(0x7, "the machine is busy"),), general_covered={0x7: ("t",)})
    for question in ("make:0x7", "0x7"):
        (one,), _ = explain(CALLS, explainer, question)
        assert (one.code, one.text, one.name, one.tests) == (0x7, "the machine is busy", "", ("t",))


def test_a_code_that_is_never_given_says_so_and_why() -> None:
    explainer = Knowledge(never_given=(never("make", 0x9, "fuse blown", "there are no fuses"),))
    (one,), _ = explain(CALLS, explainer, "make:0x9")
    assert (one.given, one.notes) == (False, ("there are no fuses",))
