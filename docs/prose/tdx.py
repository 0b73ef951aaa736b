"""What no table says about the calls of the TDX module."""

from __future__ import annotations

from collections.abc import Iterator

from docs.page import Page
from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.tables import (
    ENTRY_STATES,
    GUEST_ENTRY_STATES,
    HOST_ENTRY_STATES,
    OP_STATES,
    Lifecycle,
    OpState,
    VcpuState,
)
from protocol.calls import CallSpec, Category

GUEST = 0x1_0000
HEAD = """\
# tdx: the calls of the TDX module

Made from `protocol/arch/tdx/calls.py` and `tables.py` by `docs/build.py`; do not edit. What it follows,
what nesting has to do here and what it leaves out stands in `protocol/arch/tdx/README.md`; the console of a
host is [console/tdx](../console/tdx.md); `nestbed compare --arch tdx` runs TDs direct, nested and hosted
and says what each way costs. **Realism: software** - nobody has published a hypervisor that offers TDX to a
guest host by issuing its calls again.

`nestbed calls tdx` prints the same table, `nestbed explain tdx LEAF:STATUS` one status of it, by number or
by name: `nestbed explain tdx "mem_page_aug:OPERAND_BUSY|SEPT_TREE"`. Codes of guest leaves have 0x10000
added. Numbers of sections are those of the fact sheet that the code names; a rule's basis is *source* (read
in one), *inferred* from one, or a *guess*.
"""
OVERVIEW = """\
## All of them

{calls} leaves. Those of the life cycle are offered in profile `migration` alone; elsewhere there are none.

Share of emulated calls by category, from the start of the machine upwards: {shares}.

What a guest host's call costs: a leaf that is issued below again is one call of the real module at any
depth. On its way it arrives at L0 once from depth 1, three times from depth 2 (the host's call, the one
that L1 makes of it, L1's entry of its guest), seven times from depth 3. A leaf that a level answers by
itself (all of SYS, every CACHE.WB with nothing to write back) is not issued below. A page that goes into a
TD is the guest host's own page below, too: nothing is lent, nothing copied.
"""
FRONT = """\
## What every SEAMCALL checks first

#UD outside VMX operation, #GP above the most privileged level. Then, before any code of the leaf:
"""
FRONT_ENDS = """
A lock that is taken never makes a caller wait: OPERAND_BUSY names what was taken. What stands behind the bar
of a status (`|RCX`, `|SEPT_TREE`) is the register, or the thing, that was in the way.
"""
STATES = """\
## States

- **The module**: SYSINIT_PENDING, SYSINIT_DONE, SYSCONFIG_DONE, READY, SHUTDOWN (4.1).
- **A TD's life** (TDR): {lives}; FATAL is a flag beside it (4.2).
- **A TD's op state** (TDCS): {ops} (4.3).
- **A VCPU**: {vcpus} (4.5).

### Leaf and op state

`x` where the leaf is legal, by the number of the op state (4.4). Elsewhere it answers OP_STATE_INCORRECT;
`TDH.MNG.ADDCX` looks from the seventh page on, `TDH.VP.FLUSH` never.

{op_states}
### Leaf and state of a Secure EPT entry

`x` where the leaf takes the entry (4.6). The state's code is what RDX[15:8] shows.

{entry_states}"""


def _names(states: type[Lifecycle] | type[OpState] | type[VcpuState]) -> str:
    return ", ".join(f"{state.name} {state.value}" for state in states)


def _op_states() -> str:
    lines = [
        f"| leaf | {' | '.join(str(state.value) for state in OpState)} |",
        f"| --- {'| :-: ' * len(OpState)}|",
    ]
    for leaf, legal in OP_STATES.items():
        cells = " | ".join("x" if state in legal else "" for state in OpState)
        lines.append(f"| {CALLS[leaf].title} | {cells} |")
    return "\n".join(lines) + "\n"


def _entry_states() -> str:
    """States down, leaves across would be wide: so leaves down, states by their code across."""
    codes = " | ".join(str(state.code) for state in ENTRY_STATES)
    lines = [f"| leaf | {codes} |", f"| --- {'| :-: ' * len(ENTRY_STATES)}|"]
    rows = {**HOST_ENTRY_STATES, **{GUEST | leaf: states for leaf, states in GUEST_ENTRY_STATES.items()}}
    for leaf, legal in rows.items():
        cells = " | ".join("x" if state.name in legal else "" for state in ENTRY_STATES)
        lines.append(f"| {CALLS[leaf].title} | {cells} |")
    said = ", ".join(f"{state.code} {state.name}" for state in ENTRY_STATES)
    return "\n".join((*lines, "", f"Codes: {said}.", ""))


def _legal(row: CallSpec) -> str:
    if not row.for_host():
        return "the guest runs"
    if row.states == "ready":
        op = OP_STATES.get(row.code)
        every = "the module is READY"
        if op is None or row.name == "vp_flush":
            return every
        return f"{every}, the op state one of {', '.join(state.name for state in OpState if state in op)}"
    return "always, but after a shutdown" if row.states == "any" else f"the module is in {row.states}"


_NO_VCPU = "a TD that lacks TDCS pages is not initialised, so it has no VCPU"
_TREE = "who holds an entry shares the tree, and this call wants all of it"


def _not_provoked() -> Iterator[tuple[tuple[str, int], str]]:
    """Checks that the module has and nobody at a keyboard can reach."""
    reasons = {
        (
            "sys_key_config",
            "OPERAND_BUSY|KET",
        ): "the global lock is owned, so nobody else is at the key table",
        **{
            (leaf, "TDCS_NOT_ALLOCATED"): _NO_VCPU
            for leaf in (
                "vp_addcx",
                "vp_init",
                "vp_enter",
                "vp_rd",
                "vp_wr",
                "export_state_vp",
                "import_state_vp",
            )
        },
        ("vp_rd", "OP_STATE_INCORRECT"): "it is legal wherever a TD can have a VCPU",
        ("vp_rd", "METADATA_FIELD_NOT_READABLE"): "every field of a VCPU that is modelled can be read",
        **{
            (leaf, "OPERAND_BUSY|RCX"): _TREE
            for leaf in ("mem_sept_remove", "mem_range_block", "mem_range_unblock")
        },
        (
            "mem_rd",
            "EPT_ENTRY_STATE_INCORRECT|RCX",
        ): "every leaf that the guest may read is one of its states",
        ("mig_stream_create", "OPERAND_BUSY|MIG"): "the op state is owned before",
        ("tdg_mr_rtmr_extend", "OPERAND_BUSY|RTMR"): "a TDCALL is over before another VCPU's begins",
    }
    from protocol.arch.tdx.explain import EXPLAINER

    for row in CALLS.values():
        for at, check in enumerate(row.checks):
            why = reasons.get((row.name, EXPLAINER.name(check.code, row)))
            if why is not None:
                yield (row.name, at), why


PAGE = Page(
    "tdx",
    HEAD,
    OVERVIEW,
    {
        Category.INIT: "The module itself",
        Category.VM: "TDs",
        Category.VCPU: "VCPUs",
        Category.MEMORY: "Memory",
        Category.LIFECYCLE: "Migration and service TDs",
        Category.GUEST: "Calls of the guest (TDCALL)",
    },
    STATES.format(
        lives=_names(Lifecycle),
        ops=_names(OpState),
        vcpus=_names(VcpuState),
        op_states=_op_states(),
        entry_states=_entry_states(),
    ),
    "status",
    front=FRONT,
    front_ends=FRONT_ENDS,
    legal=_legal,
    donated="{size} bytes",
    not_provoked=dict(_not_provoked()),
)
