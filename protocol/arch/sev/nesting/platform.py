"""Commands about the platform, emulated: nothing is issued below but for what has to end there. Section 7.2.

The handlers are the machine's own, run on this level's books. What they store goes to pages that are the
firmware's in the soft RMP alone, so a page that was lent below comes back first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.checks import legacy as legacy_checks
from protocol.arch.sev.checks import platform as checks
from protocol.arch.sev.checks import snp as snp_checks
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.rmp import IMMUTABLE
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import CERT_LEN, CHAIN_LEN, CHIP_ID_LEN, NV_LEN, PAGE, Buffer
from protocol.calls import CallSpec
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

# Where a command's output goes: field and bytes.
_OUTPUTS: dict[str, tuple[tuple[str, int], ...]] = {
    "SNP_PLATFORM_STATUS": (("status", 0x20),),
    "SNP_FEATURE_INFO": (("pa", 16),),
    "GET_ID": (("pa", CHIP_ID_LEN),),
    "PEK_CSR": (("pa", CERT_LEN),),
    "PDH_CERT_EXPORT": (("pdh", CERT_LEN), ("chain", CHAIN_LEN)),
    "INIT_EX": (("nv", NV_LEN),),
}


def emulated(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The machine's own handler on this level's books."""
    for field, length in _OUTPUTS.get(spec.name, ()):
        address = getattr(b, field)
        if address + length <= n.size:
            yield from n.make_way(address, length)
    nv = n.platform.nv
    if nv and spec.name in ("PEK_GEN", "PDH_GEN", "PEK_CERT_IMPORT", "PLATFORM_RESET"):
        yield from n.make_way(nv.start, NV_LEN)
    assert spec.handler is not None
    answer: Reply | Step[Reply] = spec.handler(n, b)
    return answer if isinstance(answer, Reply) else (yield from answer)


def commit(n: Nested, spec: CallSpec, b: Buffer) -> Reply:
    """It would concern everybody on the machine."""
    return Reply(checks.snp_commit(n, b) or Status.UNSUPPORTED)


def activate_ex(n: Nested, spec: CallSpec, b: Buffer) -> Reply:
    """The guest host's CPUs are no CPUs of the level below."""
    found = legacy_checks.activate_ex(n, b)
    return Reply(found if isinstance(found, Status) else Status.UNSUPPORTED)


def snp_activate_ex(n: Nested, spec: CallSpec, b: Buffer) -> Reply:
    found = snp_checks.activate_ex(n, b)
    return Reply(found if isinstance(found, Status) else Status.UNSUPPORTED)


def set_state(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """On the soft RMP: the guest host may store to these pages, so they are unassigned below."""
    listed = checks.page_set_state(n, b)
    if isinstance(listed, Status):
        return Reply(listed)
    pages = [page for one in listed for page in one]
    yield from n.hold(pages)
    for page in pages:
        yield from n.make_way(page * PAGE, 1)
        n.rmp.put(page, IMMUTABLE)
        n.sync(page, 1)
    return DONE
