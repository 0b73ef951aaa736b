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


_OWNED = "a page of a guest names its ASID, so one without an ASID owns none: the check before says so"
_VALID = (
    "only a page that was swapped out has valid metadata, and then its guest has a state, an ASID, a size"
)
NOT_PROVOKED = {
    ("SEND_UPDATE_DATA", 4): "the row is that of packets; only VMSAs need an ES guest",
    ("SWAP_OUT", 5): "the counter has 64 bits",
    ("SNP_INIT_EX", 7): "building the RMP never fails here",
    ("SNP_VLEK_LOAD", 3): "wrapping a VLEK takes the vendor's service",
    ("SNP_ACTIVATE", 6): "the machine has one socket",
    ("SNP_GCTX_CREATE", 4): "a page of the firmware's is memory",
    ("SNP_LAUNCH_UPDATE", 5): "a 2 MiB entry is aligned",
    ("SNP_DBG_DECRYPT", 6): _OWNED,
    ("SNP_DBG_ENCRYPT", 6): _OWNED,
    ("SNP_PAGE_SWAP_OUT", 11): "the counter has 64 bits",
    ("SNP_PAGE_SWAP_IN", 9): _VALID,
    ("SNP_PAGE_SWAP_IN", 10): _VALID,
    ("SNP_PAGE_SWAP_IN", 11): _VALID,
}

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
