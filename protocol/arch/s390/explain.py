"""What the Ultravisor's codes mean beyond the call table: sections 3.3 to 3.5, 5.5 and 6 of the fact sheet.

Codes that every call may answer, in the order in which they are checked; codes of real firmware that this
emulator never gives, and why; what Linux and QEMU do with an answer, as far as the sheet says.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.arch.s390.coverage import COVERED, GENERAL_COVERED
from protocol.calls import CallSpec
from protocol.explain import Meaning
from protocol.knowledge import Knowledge, never

NEED_DESTROY = 0x8000
_BEFORE = "before any check of the call itself, number {} of 7"
# The front's checks 1 to 3 (problem state, immediate operands, access to the block) are exceptions, no codes.
GENERAL = (
    Meaning(
        0x0001,
        "executed: no error, and condition code 0",
        source="3.3, 6",
        notes=("with reason 42 it is no answer of the Ultravisor: KVM says so of a guest that it set aside",),
    ),
    Meaning(
        0x0002,
        "the call is not installed for who issues it: unknown, of the other role, or not in this firmware",
        place=_BEFORE.format(4),
        source="2.0, 3.3, 3.4",
    ),
    Meaning(
        0x0003,
        "the Ultravisor is not initialised",
        place=_BEFORE.format(5),
        source="3.3, 3.4",
        notes=("after a reset of the host every host call answers this until Initialize succeeds again",),
    ),
    Meaning(
        0x0005,
        "the length in the header is not the one of the call",
        place=_BEFORE.format(6) + "; that it comes behind the state is a guess",
        source="3.3, 3.4",
    ),
    Meaning(
        0x0020,
        "no configuration of this host has that handle; another host's handle answers the same",
        place=_BEFORE.format(7),
        source="3.3, 3.4",
    ),
    Meaning(
        0x0021,
        "no secure CPU of this host has that handle; another host's handle answers the same",
        place=_BEFORE.format(7),
        source="3.3, 3.4",
        notes=("z15 firmware does not report it",),
    ),
    Meaning(0x0007, "a partly done call cannot be resumed", source="3.3", given=False),
    Meaning(0x0000, "never a legal answer: the block was not stored to", source="3.3", given=False),
)
ANY_CALL = frozenset({0x0000, 0x0001, 0x0007})


ELSEWHERE = (
    never(
        "destroy_config_fast",
        0x0104,
        "AP queues are still bound",
        "Linux does the normal destroy later; crypto cards are not modelled here",
        source="3.5",
    ),
    never(
        "destroy_storage",
        0x0107,
        "the page is not secure",
        "older firmware; newer firmware, as here, answers success and does nothing",
        0x000D,
        source="3.5",
    ),
    never(
        "set_params",
        0x0108,
        "no slot for this machine nor for its backup key",
        "the machine here has no backup host key",
        0x0034,
        source="3.5",
    ),
    never(
        "add_secret",
        0x0101,
        "not allowed to modify the store",
        "what would forbid it is not known",
        source="3.5",
    ),
)

_QEMU_LOAD = (
    "QEMU tears the configuration down and gives the guest return code 0x0A02 of diagnose 0x308; newer "
    "versions name the failing command ({}) with rc and rrc"
)
_FAULT_IN = "Linux faults the page in, writable, and issues the call again"
_LEAK = "Linux never uses the donated memory again: it is leaked on purpose"
# call -> what Linux and QEMU do with any error of it.
OF_ANY_ERROR = {
    "init": ("Linux goes on without secure guests",),
    "create_config": ("with 0x8000 in the code the half-built configuration has to be destroyed first",),
    "destroy_config": (_LEAK,),
    "destroy_config_fast": (_LEAK,),
    "destroy_cpu": (_LEAK, "the configuration cannot be destroyed either then, as Linux remarks"),
    "set_params": (_QEMU_LOAD.format(2),),
    "unpack": (_QEMU_LOAD.format(3),),
    "verify": (_QEMU_LOAD.format(4),),
    "dump_init": ("QEMU goes on with a dump that is not secure",),
    "pin": ("Linux then exports the page with Convert from Secure Storage",),
    "convert_to_secure": ("Linux ends the VMM with SIGSEGV",),
    "convert_from_secure": ("Linux: SIGSEGV for a user's access, BUG for the kernel's own",),
    "destroy_storage": ("Linux tries Convert from Secure Storage instead",),
}
# (call, code) -> the same for one code, in place of the above.
OF_A_CODE = {
    ("convert_to_secure", 0x010A): (_FAULT_IN,),
    ("unpack", 0x010A): (_FAULT_IN,),
    ("unpin", 0x010A): (_FAULT_IN,),
    ("convert_to_secure", 0x0104): ("early Linux takes it as success",),
    ("set_params", 0x0108): (
        "QEMU hints, for exactly this code, that the image was built for another host",
        _QEMU_LOAD.format(2),
    ),
    ("query", 0x0100): ("the data up to the given length are valid",),
    ("list_secrets", 0x0100): ("the page is valid; ask again from the index that it names",),
    ("retrieve_secret", 0x0109): ("the kernel's name; s390-tools lists 0x0009 for the same text",),
}


class S390Knowledge(Knowledge):
    """Section 3.3 says of each general code when it comes."""

    def possible(self, code: int, call: CallSpec) -> bool:
        if code == 0x0002:
            return True
        if code == 0x0003:
            return call.states == "ready" and call.for_host()
        if code == 0x0005:
            return not any(check.code == code for check in call.checks)  # the query says itself what it takes
        if code in (0x0020, 0x0021):
            return call.handle == ("config" if code == 0x0020 else "cpu")
        return code in ANY_CALL

    def plain(self, code: int) -> tuple[int, Sequence[str]]:
        """Bit 0x8000 says of a failed Create Configuration that a handle was returned all the same."""
        if code & NEED_DESTROY:
            remark = (
                "0x8000: a handle was returned, and the half-built configuration has to be destroyed first; "
                "this emulator never sets it, as a call that fails has changed nothing"
            )
            return code & ~NEED_DESTROY, (remark,)
        return code, ()


EXPLAINER = S390Knowledge(GENERAL, ELSEWHERE, OF_ANY_ERROR, OF_A_CODE, COVERED, GENERAL_COVERED)
