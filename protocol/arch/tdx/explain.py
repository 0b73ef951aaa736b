"""What completion statuses mean beyond the call table: sections 3, 3.4, 3.5 and 6 of the fact sheet.

A status is asked for by its number or by its name, with the operand behind a bar: `OPERAND_BUSY|SEPT_TREE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protocol.arch.tdx.coverage import COVERED, GENERAL_COVERED
from protocol.arch.tdx.cpu import REGISTER_NAMES
from protocol.arch.tdx.machine.access import EPT_MISCONFIGURATION, EPT_VIOLATION
from protocol.arch.tdx.status import CODE_MASK, RAX, Operand, Status, name_of
from protocol.calls import CallSpec
from protocol.explain import Meaning, number_of
from protocol.knowledge import Knowledge, never

OPERANDS = {name.upper(): number for number, name in enumerate(REGISTER_NAMES)}
OPERANDS |= {each.name: int(each) for each in Operand}
OPERAND_NAMES = {number: name for name, number in OPERANDS.items()}
CODES = {each.name: int(each) for each in Status}

_BEFORE = "before any check of the leaf itself, number {} of 5"
VP_ENTER, VP_ENTER_EXITS = "vp_enter", "a VCPU was inside: this says why it left"
GENERAL = (
    Meaning(Status.SUCCESS, "done", source="3.2"),
    Meaning(
        Status.OPERAND_INVALID | RAX,
        "a reserved bit of RAX, a version that the leaf has not, or no such leaf",
        place=_BEFORE.format("1, 2 and 5"),
        source="3.3",
        notes=("before the module is ready an unknown leaf answers SYS_NOT_READY",),
    ),
    Meaning(Status.SYS_SHUTDOWN, "the module was shut down", place=_BEFORE.format(3), source="3.3, 4.1"),
    Meaning(
        Status.SYS_NOT_READY,
        "the module is not ready, and the leaf is none of those that bring it up",
        place=_BEFORE.format(4),
        source="3.3, 4.1",
        notes=("TDH.SYS.TDMR.INIT is none of those: it comes when the module is ready",),
    ),
)
_EXIT_TEXTS = {
    0: "NMI",
    1: "external interrupt, or the guest had nothing more to do",
    6: "SMI",
    EPT_VIOLATION: "EPT violation: RCX the qualification, RDX the extended one, R8 the address",
    EPT_MISCONFIGURATION: "EPT misconfiguration: an entry of the shared EPT that cannot be",
    77: "TDVMCALL: RCX which registers the guest shows, and those registers",
    Status.NON_RECOVERABLE_VCPU | 2: "triple fault: the VCPU is DISABLED",
    Status.NON_RECOVERABLE_TD_NON_ACCESSIBLE: "machine check on the TD's memory: the TD is FATAL",
}
EXITS = tuple(
    Meaning(code, text, VP_ENTER, place=VP_ENTER_EXITS, source="3.4") for code, text in _EXIT_TEXTS.items()
)

_NO_CLOCK = "there is no clock here"
_NEVER_RANDOM = "the machine here never runs out of entropy"
NEVER_GIVEN = (
    never("mng_create", Status.RND_NO_ENTROPY, "no random bits", _NEVER_RANDOM, source="3.3"),
    *(
        never(call, Status.KEY_GENERATION_FAILED, "no key could be made", _NEVER_RANDOM, source="3.3")
        for call in ("mng_key_config", "sys_key_config")
    ),
    never(VP_ENTER, Status.TSC_ROLLBACK, "the TSC went back", _NO_CLOCK, source="3.3"),
    never(VP_ENTER, Status.INCONSISTENT_MSR, "TSC_ADJUST is another one", _NO_CLOCK, source="3.3"),
    never(
        VP_ENTER,
        Status.HOST_PRIORITY_BUSY_TIMEOUT,
        "the guest was starved by locks of its host",
        f"{_NO_CLOCK}: the guest is told that the operand is busy",
        source="3.5",
    ),
    never(VP_ENTER, Status.CROSS_TD_TRAP, "a service TD met a fault of its target", "no TD serves another"),
    never("sys_init", Status.SMRR_NOT_LOCKED, "the platform is not configured", "it is, here", source="3.2"),
    never("sys_lp_init", Status.INCONSISTENT_CPUID_FIELD, "this LP differs from the first", "none does"),
)

_REFAULT = "Linux lets the guest fault again (EBUSY)"
_KICK = "Linux keeps VCPUs out, kicks those inside, tries once more, and then takes it for a bug of its own"
_LEAK = "Linux never uses the page again: it is leaked on purpose"
_ONE_AT_A_TIME = "Linux serialises all calls that change key owners with one mutex"
_BOOT = "Linux goes on without TDX until the machine restarts"
ANY_ERROR = {
    "sys_init": (_BOOT,),
    "sys_lp_init": (_BOOT,),
    "sys_config": (_BOOT,),
    "sys_key_config": (_BOOT, "its PAMT is written anew before it is used as memory"),
    "sys_tdmr_init": (_BOOT,),
    "phymem_page_reclaim": (_LEAK,),
    "mem_page_remove": (_LEAK, "KVM marks the VM as one with a bug"),
    "mng_vpflushdone": ("Linux cannot free the KeyID then: it stays taken",),
    "mng_key_freeid": ("Linux cannot free the KeyID then: it stays taken",),
}
_BUSY = int(Status.OPERAND_BUSY)
_TREE, _EPOCH, _KOT, _RCX = Operand.SEPT_TREE, Operand.TD_EPOCH, Operand.KOT, OPERANDS["RCX"]
ONE_CODE: dict[tuple[str, int], Sequence[str]] = {
    **{
        (call, _BUSY | what): (_REFAULT,)
        for call in ("mem_page_aug", "mem_sept_add")
        for what in (_TREE, _RCX)
    },
    **{
        (call, _BUSY | what): (_KICK,)
        for call, what in (
            ("mem_range_block", _TREE),
            ("mem_track", _EPOCH),
            ("mem_page_remove", _TREE),
            ("mem_page_remove", _RCX),
        )
    },
    **{
        (call, _BUSY | _KOT): (_ONE_AT_A_TIME,)
        for call in ("mng_create", "mng_vpflushdone", "mng_key_freeid", "phymem_cache_wb")
    },
    ("vp_flush", int(Status.VCPU_NOT_ASSOCIATED)): ("Linux takes it as success: somebody has flushed it",),
    ("vp_enter", _BUSY | _TREE): ("Linux enters again: the zero-step filter stands in the way",),
    ("vp_enter", int(Status.VCPU_ASSOCIATED)): ("Linux sends an IPI to flush the VCPU where it was before",),
    ("mng_create", int(Status.HKID_NOT_FREE)): ("Linux has an allocator of KeyIDs of its own: a bug there",),
    ("phymem_cache_wb", int(Status.NO_HKID_READY_TO_WBCACHE)): ("a success class: nothing had to be done",),
}


class TdxKnowledge(Knowledge):
    """Statuses have names; the low half of one names an operand, or is an exit reason."""

    def read(self, text: str) -> int | None:
        """A number, or CODE, or CODE|OPERAND."""
        number = number_of(text)
        if number is not None:
            return number
        code, _, operand = text.upper().partition("|")
        if code not in CODES or (operand and operand not in OPERANDS):
            return None
        return CODES[code] | OPERANDS.get(operand, 0)

    def name(self, code: int, call: CallSpec | None) -> str:
        """CODE or CODE|OPERAND, as the operand part of a status says it."""
        operand = code & ~CODE_MASK
        if operand and not code & CODE_MASK:
            return f"exit reason {operand}"
        named = code & CODE_MASK in (Status.OPERAND_INVALID, Status.OPERAND_BUSY)
        said = OPERAND_NAMES.get(operand, hex(operand))
        return f"{name_of(code)}|{said}" if operand or named else name_of(code)

    def possible(self, code: int, call: CallSpec) -> bool:
        """A guest's leaf knows no platform states."""
        return call.for_host() or code not in (Status.SYS_SHUTDOWN, Status.SYS_NOT_READY)

    def general(self, code: int, call: CallSpec | None) -> list[Meaning]:
        """The exits of a VCPU are no checks, and no other leaf answers them."""
        exits = EXITS if call is None or call.name == VP_ENTER else ()
        return [
            *super().general(code, call),
            *(replace(one, name=self.name(code, call)) for one in exits if one.code == code),
        ]


EXPLAINER = TdxKnowledge(GENERAL, NEVER_GIVEN, ANY_ERROR, ONE_CODE, COVERED, GENERAL_COVERED)
