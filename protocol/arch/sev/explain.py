"""What statuses mean beyond the command table: sections 2, 3, 6 and 7 of the fact sheet."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.arch.sev.coverage import COVERED, GENERAL_COVERED
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import LAYOUTS, WRITTEN
from protocol.calls import CallSpec
from protocol.explain import Meaning, number_of
from protocol.knowledge import Knowledge, never

_FIRST = "before any check of the command itself, number {} of 3"
GENERAL = (
    Meaning(Status.SUCCESS, "done", source="3.1"),
    Meaning(
        Status.INVALID_COMMAND,
        "there is no such command",
        place=_FIRST.format(1),
        source="2.0, 3.2",
        notes=("so are the trusted-IO commands, and whatever is newer than firmware 1.55",),
    ),
    Meaning(
        Status.INVALID_PAGE_STATE,
        "SNP is on, the command writes its buffer, and the buffer is not in pages of the firmware's",
        place=_FIRST.format(2),
        source="2.1",
        notes=(
            "Linux makes the buffer a Firmware page, and takes it back with PAGE_RECLAIM and RMPUPDATE",
            "firmware 1.55.25 adds 64 to the status; the plain one is given here",
        ),
    ),
    Meaning(
        Status.INVALID_ADDRESS,
        "the buffer is not in memory that the firmware reads: DRAM without SMM, trusted region and RMP",
        place=_FIRST.format(3),
        source="3.2",
    ),
)
_MIGRATION = "messages of migration are refused like unknown types here"
ELSEWHERE = (
    never(
        "SNP_GUEST_REQUEST",
        Status.RESOURCE_LIMIT,
        "a message of migration",
        _MIGRATION,
        source="2.6",
        basis="inferred",
    ),
    never(
        "SNP_INIT_EX",
        Status.RMP_INITIALIZATION_FAILED,
        "the RMP cannot be built",
        "building it never fails here",
        source="3.4",
    ),
    never("SNP_COMMIT", Status.UPDATE_FAILED, "an update under way", "nothing is updated here", source="3.1"),
)
_MACHINE = "it would concern everybody on the machine, so the level below keeps it for itself"
_CPUS = "CPUs of a guest host are none of the level below's"
_PIECES = "a page of 2 MiB that lies in pieces below is not swapped"
_KEPT = (
    *((name, _MACHINE) for name in ("SNP_COMMIT", "SNP_VLEK_LOAD")),
    *((name, _CPUS) for name in ("ACTIVATE_EX", "SNP_ACTIVATE_EX")),
    *((name, _PIECES) for name in ("SWAP_OUT", "SWAP_IN", "SNP_PAGE_SWAP_OUT", "SNP_PAGE_SWAP_IN")),
    ("SNP_PAGE_UNSMASH", "pages that lie in pieces below cannot be joined"),
    ("SEND_START", "the policy wants a chain up to the vendor's root, which a guest host's platform has not"),
    *((name, "profile `azure`: legacy guests are not nested there") for name in ("INIT", "INIT_EX")),
)
ABOVE = tuple(  # what a guest host is told, and the machine's own host never
    Meaning(
        Status.UNSUPPORTED,
        text,
        name,
        place="behind all checks of the command, at depth 1 and above",
        basis="inferred",
        source="7.1, 7.2",
        tests=("tests/conformance/sev_differences.py",),
        notes=("a difference that a guest host can see; it stands in the list of those",),
    )
    for name, text in _KEPT
)
_EIO = "the driver answers EIO and hands the status to the caller; `fw_error` shows it"
_DEAD = "as any error of the probe: the driver goes on without secure guests"
_LAUNCH = "KVM ends the launch: the page is reclaimed and made the host's again (1 PAGE_RECLAIM, 1 RMPUPDATE)"
_LEAK = "Linux leaks the page for good: whoever freed it would break somebody"
OF_ANY_ERROR: dict[str, Sequence[str]] = {
    **dict.fromkeys(LAYOUTS, (_EIO,)),
    **dict.fromkeys(("INIT", "SNP_INIT", "SNP_INIT_EX", "DF_FLUSH", "SNP_DF_FLUSH"), (_EIO, _DEAD)),
    "SNP_LAUNCH_UPDATE": (_LAUNCH,),
    "SNP_PAGE_RECLAIM": (_LEAK,),
    "SNP_DECOMMISSION": ("Linux leaks the context page: losing it loses the only way to end that guest",),
    "SNP_GUEST_REQUEST": (
        "the guest is told; it must not send another message under the same sequence number",
        "an error of the guest's own making comes back inside an encrypted response, with SUCCESS",
    ),
}
OF_A_CODE: dict[tuple[str, int], Sequence[str]] = {
    ("RING_BUFFER", Status.UNSUPPORTED): (
        "refused at every depth: the mode is hidden from guest hosts (7.2), and Linux never arms it",
    ),
    **{
        (name, Status.UNSUPPORTED): (
            "an update is not modelled, at any depth: Linux goes on with the firmware that runs",
            "a guest host must never get that far: it would be the firmware of the whole machine (7.2)",
        )
        for name in ("DOWNLOAD_FIRMWARE", "SNP_DOWNLOAD_FIRMWARE_EX")
    },
    **{
        (name, Status.SECURE_DATA_INVALID): ("the area was erased: Linux tries once more, which succeeds",)
        for name in ("INIT", "INIT_EX")
    },
    **{
        (name, Status.INVALID_LENGTH): ("how a length is asked for: it is written back, and the state stays",)
        for name in ("LAUNCH_MEASURE", "ATTESTATION", "SEND_START", "PDH_CERT_EXPORT", "PEK_CSR", "GET_ID")
    },
    **{
        (name, Status.DFFLUSH_REQUIRED): (
            "Linux writes back on all CPUs, sends SNP_DF_FLUSH and tries again",
        )
        for name in ("SNP_SHUTDOWN", "SNP_SHUTDOWN_EX")
    },
    **{
        (name, Status.DFFLUSH_REQUIRED): ("KVM flushes before it hands out ASIDs that were used",)
        for name in ("ACTIVATE", "SNP_ACTIVATE")
    },
}


class SevKnowledge(Knowledge):
    """Statuses have names."""

    def read(self, text: str) -> int | None:
        """`INVALID_GUEST`, in small letters, too, or a number."""
        named = Status.__members__.get(text.upper().removeprefix("SEV_RET_"))
        return number_of(text) if named is None else int(named)

    def name(self, code: int, call: CallSpec | None) -> str:
        return Status(code).name if code in Status._value2member_map_ else ""

    def possible(self, code: int, call: CallSpec) -> bool:
        """A command that takes no buffer is not refused for it."""
        if code == Status.INVALID_PAGE_STATE:
            return call.name in WRITTEN
        if code == Status.INVALID_ADDRESS:
            return bool(call.length)
        return code == Status.SUCCESS

    def plain(self, code: int) -> tuple[int, Sequence[str]]:
        """What the register holds, and the option that adds 64."""
        if code == Status.INVALID_PAGE_STATE + 64:
            return Status.INVALID_PAGE_STATE, ("with 64 added, as firmware 1.55.25 has it (2.1)",)
        return code & 0xFFFF, ()


EXPLAINER = SevKnowledge(GENERAL, (*ABOVE, *ELSEWHERE), OF_ANY_ERROR, OF_A_CODE, COVERED, GENERAL_COVERED)
