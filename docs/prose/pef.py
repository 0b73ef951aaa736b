"""What no table says about the calls of the ultravisor of POWER."""

from __future__ import annotations

from docs.page import Page
from protocol.arch.pef.tables import IMPLICIT, PSEUDO, TRANSIENT, SvmState
from protocol.arch.pef.tables import Page as Gfn
from protocol.calls import Category

HEAD = """\
# pef: the calls of the ultravisor, and those that it makes

Made from `protocol/arch/pef/calls.py` by `docs/build.py`; do not edit. What it follows and what it leaves
out stands in `protocol/arch/pef/README.md`; the keyboard of a host: [console](../console/pef.md). `nestbed
calls pef` prints the same table, `nestbed explain pef CALL:CODE` one code of it, by its name (`U_P2`) or its
number. Numbers of sections are those of the fact sheet that the code names; a rule's basis is *source* (read
in one), *inferred* from one, or a *guess*.
"""
OVERVIEW = """\
## All of them

{calls} calls. A host makes ultracalls (UV_), a guest makes ultracalls and hypercalls; the six H_SVM_ are
hypercalls that the ultravisor makes for a guest, and what is checked there KVM checks. The last five matter
for a secure guest beside them. No call carries a control block: parameters are in R4 to R12, the answer is
in R3.

Share of emulated calls by category, from the start of the machine upwards: {shares}. The category *init*
holds the platform's calls, because the ultravisor needs no call to come up. Where the level below picks the
LPID (nesting API v2, `handles = passed`) four calls of *modified* pass instead: UV_REGISTER_MEM_SLOT,
UV_UNREGISTER_MEM_SLOT, UV_PAGE_INVAL and UV_SVM_TERMINATE.
"""
FRONT = """\
## What every ultracall checks first

In this order; number 2 is the caller's state, which stands with each call below.
"""
FRONT_ENDS = ""
STATES = """\
## States

Sections 5.1 to 5.3; all of it is data in `protocol/arch/pef/tables.py`.

- **A VM**, as the ultravisor sees it: none, then {svms}. UV_ESM makes it active, the end of the transition
  secure; a failure makes it abort until KVM terminates it. As KVM sees it: normal, transient, secure.
- **A page of an SVM** (64 KiB): {pages}. Implicitly shared ({implicit}) are pages that the
  ultravisor shared for itself; pseudo-shared ({pseudo}) those of which the hypervisor has another
  frame. While a call of the guest is under way pages are transient: {transient}.
- **Secure memory** is reserved in units of 2 MiB by UV_REGISTER_MEM_SLOT; nothing is donated.
- **A reflection** is open from the exit until UV_RETURN brings its cookie back.
"""


def _names(states: object) -> str:
    words = (state.name.lower().replace("_", " ") for state in states)  # type: ignore[attr-defined]
    return ", ".join(words)


NOT_PROVOKED = {
    ("UV_SVM_TERMINATE", 3): (
        "two CPUs of a guest host and a level below that is elsewhere: "
        "tests/protocol/arch/pef/test_pef_overtaking.py tries every order"
    )
}

PAGE = Page(
    "pef",
    HEAD,
    OVERVIEW,
    {
        Category.INIT: "The host platform",
        Category.VM: "VMs",
        Category.VCPU: "Vcpus",
        Category.MEMORY: "Memory",
        Category.LIFECYCLE: "The end of an SVM",
        Category.GUEST: "Calls of the guest",
    },
    STATES.format(
        svms=_names(SvmState),
        pages=_names(page for page in Gfn if page not in TRANSIENT),
        implicit=_names(sorted(IMPLICIT)),
        pseudo=_names(sorted(PSEUDO)),
        transient=_names(sorted(TRANSIENT)),
    ),
    "R3",
    "",
    FRONT,
    FRONT_ENDS,
    lambda row: "always; the ultravisor is there first" if row.states == "ready" else row.states,
    not_provoked=NOT_PROVOKED,
)
