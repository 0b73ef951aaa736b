"""What no table says about the commands of AMD's secure processor."""

from __future__ import annotations

from collections import Counter

from docs.page import Page
from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.rmp import PageState
from protocol.arch.sev.status import ContextState, GuestState
from protocol.calls import Category

HEAD = """\
# sev: the commands of the secure processor

Made from `protocol/arch/sev/calls.py` by `docs/build.py`; do not edit. What it follows and what it leaves
out stands in `protocol/arch/sev/README.md`; how nesting works here: [sev-nesting](sev-nesting.md); the
keyboard of a host: [console](../console/sev.md). `nestbed calls sev` prints the same table, `nestbed explain
sev COMMAND:STATUS` one status of it, by name (`INVALID_GUEST`) or number. Numbers of sections are those of
the fact sheet that the code names; a rule's basis is *source* (read in one), *inferred* from one, or a
*guess*.
"""
OVERVIEW = """\
## All of them

{calls} commands: 15 and 26 of the legacy platform and its guests, 11 and 18 of SNP. A host writes the
address of a buffer and the number of the command into the mailbox; the status comes back there. RMPUPDATE
and PSMASH are instructions and no commands; nested they are two trapping MSRs.

Share of emulated commands by category, from the start of the machine upwards: {shares}.
"""
FRONT = """\
## What comes before every command

In this order. Behind it, a legacy command looks at the platform, the handle, the guest's state, the feature,
the ASID, alignment and length, output pages; an SNP command at reserved bits, the platform, the context page,
other pages, sizes, the guest's state, the ASID, the owner. What differs stands with each command.
"""
FRONT_ENDS = """\
A command that writes its buffer leaves its first page in Reclaim, whether it succeeded or not.
"""
STATES = """\
## States

Sections 4 and 5.2.

- **The two platforms** are separate: SEV is uninit, init (also when its last guest goes) or working; SNP is
  uninit or init. Up: SNP first. Down: SEV first.
- **A legacy guest**: {guests}. **An SNP guest**: {contexts}.
- **A page** in the RMP: {pages}.
- **An ASID** is, on each core, dirty, clean, allocated (bound, the guest not finished) or in use. WBINVD on
  all cores and a flush make dirty ones clean.
- **Handles** of legacy guests are the lowest free numbers; the handle of an SNP guest is the address of its
  context page.
"""
SAME_STATUS = "another check of this command answers the same status: the record cannot tell which it was"


def _names(states: object) -> str:
    words = (state.name.lower().replace("_", " ") for state in states)  # type: ignore[attr-defined]
    return ", ".join(words)


def _not_told_apart() -> dict[tuple[str, int], str]:
    found = {}
    for row in CALLS.values():
        times = Counter(check.code for check in row.checks)
        for place, check in enumerate(row.checks):
            if times[check.code] > 1:
                found[row.name, place] = SAME_STATUS
    return found


NOT_PROVOKED: dict[tuple[str, int], str] = {}

PAGE = Page(
    "sev",
    HEAD,
    OVERVIEW,
    {
        Category.INIT: "The platform",
        Category.VM: "Guests",
        Category.VCPU: "VCPUs",
        Category.MEMORY: "Memory",
        Category.LIFECYCLE: "Life cycle",
        Category.GUEST: "For the guest",
    },
    STATES.format(
        guests=_names(GuestState),
        contexts=_names(ContextState),
        pages=_names(PageState),
    ),
    "status",
    "",
    FRONT,
    FRONT_ENDS,
    lambda row: "always" if row.states == "ready" else row.states,
    not_provoked=_not_told_apart() | NOT_PROVOKED,
)
