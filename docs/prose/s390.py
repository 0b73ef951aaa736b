"""What no table says about the calls of the Ultravisor."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from docs.page import Page
from protocol.arch.s390.layouts import LAYOUTS
from protocol.arch.s390.machine.entities import ConfigState, CpuState, PageState
from protocol.arch.s390.profiles import PROFILES
from protocol.calls import CallSpec, Category
from protocol.explain import hexadecimal

HEAD = """\
# s390: the calls of the Ultravisor

Made from `protocol/arch/s390/calls.py` by `docs/build.py`; do not edit. What it follows and what it leaves
out stands in `protocol/arch/s390/README.md`; images: [s390-image](s390-image.md), evidence:
[s390-attestation](s390-attestation.md). `nestbed calls s390` prints the same table, `nestbed explain s390
CALL:RC` one code of it. Numbers of sections are those of the fact sheet that the code names; a rule's
basis is *source* (read in one), *inferred* from one, or a *guess*.
"""
OVERVIEW = """\
## All of them

{calls} calls; profile `talk2022` has those of the talk, without {later}.

Share of emulated calls by category, from the start of the machine upwards: {shares}.
"""
FRONT = """\
## What every call checks first

In this order, before anything that is a call's own; the first that fails decides. The first three are
exceptions on the issuing CPU and leave the block as it was: problem state (0x02), an immediate operand
(0x06), a block that cannot be accessed as a whole (DAT exceptions, 0x05, 0x3D). Then come codes:
"""
CONDITIONS = """
Condition code 0 comes with 0x0001 alone, 1 with every other code; 2 (another call holds what this one needs)
comes with none, and the block stays as it was; so does 3 (progress was made: the same block once more), which
long calls answer with the profile `partial`.
"""
STATES = """\
## States

Sections 5.1 to 5.5. The names are this emulator's, the transitions are sourced; codes of a wrong order inside
a configuration are guesses, as the tables above say.

- **The Ultravisor**: not initialised, until `init`; ready, until a reset of the host. No call undoes it.
- **A configuration**: {configs}. `create_config`, `set_params`, the first `unpack`, `verify`, `cpu_set_state`
  to start; then for a reset: every CPU stopped, `unshare_all`, `prepare_reset`, a reset of every CPU,
  `cpu_set_state` with a PSW to load. `destroy_config` is legal in each of them once its CPUs are gone. A dump
  is a mark beside the state: SIE is refused while it is there.
- **A secure CPU**: {cpus}; created stopped. It leaves check-stop by a reset alone.
- **A page of the host**: {pages}. Import (`convert_to_secure`, `unpack`) makes a normal page secure, or moves
  a shared one of another guest; `share`, `unshare` and `pin`, `unpin` go between secure, shared and pinned;
  export (`convert_from_secure`) and `destroy_storage` make it normal; donations end with their owner.
"""


def _names(states: type[IntEnum]) -> str:
    return ", ".join(state.name.lower().replace("_", " ") for state in states)


def _later() -> str:
    """Calls that the talk did not have."""
    return ", ".join(map(hexadecimal, sorted(PROFILES["talk2022"].absent)))


def _legal(row: CallSpec) -> str:
    if not row.for_host():
        return "the guest runs"
    if row.states == "ready":
        return "the Ultravisor is initialised"
    return "always, before the Ultravisor is initialised, too"


def _layout(row: CallSpec) -> Iterator[str]:
    """The fields of the control block."""
    if not LAYOUTS[row.name]:
        return
    yield "| offset | bytes | field | what |"
    yield "| --- | ---: | --- | --- |"
    for field in LAYOUTS[row.name]:
        text = f"{field.kind}{'; ' + field.text if field.text else ''}{'; written' if field.out else ''}"
        yield f"| {field.at:#05x} | {field.width} | `{field.name}` | {text} |"


PAGE = Page(
    "s390",
    HEAD,
    OVERVIEW.replace("{later}", _later()),
    {
        Category.INIT: "The Ultravisor itself",
        Category.VM: "Configurations",
        Category.VCPU: "Secure CPUs",
        Category.MEMORY: "Pages",
        Category.LIFECYCLE: "States, resets, dumps",
        Category.GUEST: "Calls of the guest",
    },
    STATES.format(configs=_names(ConfigState), cpus=_names(CpuState), pages=_names(PageState)),
    "rc",
    "rrc",
    FRONT,
    CONDITIONS,
    _legal,
    _layout,
)
