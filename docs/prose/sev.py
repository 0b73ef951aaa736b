"""What no table says about the commands of AMD's secure processor."""

from __future__ import annotations

from docs.page import Page
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


def _names(states: object) -> str:
    words = (state.name.lower().replace("_", " ") for state in states)  # type: ignore[attr-defined]
    return ", ".join(words)


_OWNED = "a page of a guest names its ASID, so one without an ASID owns none: the check before says so"
_ALIGNED = "a 2 MiB entry is aligned: the check of its size says so"
_CLEAN = "an ASID that is neither bound nor dirty on a core is clean there"
_SENT = "no command sends an SNP guest"
_LONG = "the counter has 64 bits"
NOT_PROVOKED = {
    ("ACTIVATE", 7): _CLEAN,
    ("ACTIVATE_EX", 9): _CLEAN,
    ("SWAP_OUT", 5): _LONG,
    ("SNP_ACTIVATE", 6): "the machine has one socket",
    ("SNP_ACTIVATE", 10): _SENT,
    ("SNP_ACTIVATE", 12): _CLEAN,
    ("SNP_ACTIVATE_EX", 11): _SENT,
    ("SNP_ACTIVATE_EX", 13): _CLEAN,
    ("SNP_LAUNCH_UPDATE", 5): _ALIGNED,
    ("SNP_DBG_DECRYPT", 6): _OWNED,
    ("SNP_DBG_ENCRYPT", 6): _OWNED,
    ("SNP_PAGE_SWAP_OUT", 11): _LONG,
    ("SNP_PAGE_RECLAIM", 4): _ALIGNED,
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
    not_provoked=NOT_PROVOKED,
)
