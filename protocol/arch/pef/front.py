"""Who may make which ultracall.

Section 3 of the fact sheet, the same for the ultravisor and every emulation.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.profiles import FIRMWARE, Choices
from protocol.arch.pef.status import BAD_MODE, FUNCTION, INVALID, PERMISSION

WRITE_PATE, RESTRICTED_SPR_WRITE, RESTRICTED_SPR_READ = 0xF104, 0xF108, 0xF10C
ESM, READ_SCOM, WRITE_SCOM, RETURN = 0xF110, 0xF114, 0xF118, 0xF11C
REGISTER_MEM_SLOT, UNREGISTER_MEM_SLOT = 0xF120, 0xF124
PAGE_IN, PAGE_OUT, SHARE_PAGE, UNSHARE_PAGE = 0xF128, 0xF12C, 0xF130, 0xF134
PAGE_INVAL, SVM_TERMINATE, UNSHARE_ALL_PAGES = 0xF138, 0xF13C, 0xF140
READ_MEM, WRITE_MEM, ESMB_GET_FILE, SEND_SBE_COMMAND = 0xF144, 0xF148, 0xF14C, 0xF150

FOR_HOST = frozenset(
    {
        *(WRITE_PATE, RETURN, RESTRICTED_SPR_WRITE, RESTRICTED_SPR_READ, READ_SCOM, WRITE_SCOM),
        *(REGISTER_MEM_SLOT, UNREGISTER_MEM_SLOT, PAGE_IN, PAGE_OUT, PAGE_INVAL, SVM_TERMINATE),
        *(READ_MEM, WRITE_MEM, SEND_SBE_COMMAND),
    }
)
FOR_SVM = frozenset({SHARE_PAGE, UNSHARE_PAGE, UNSHARE_ALL_PAGES})
ULTRACALLS = FOR_HOST | FOR_SVM | {ESM, ESMB_GET_FILE}


class Context(NamedTuple):
    """The machine state of whoever makes an ultracall."""

    hv: bool
    pr: bool
    s: bool
    transactional: bool = False


def context_of(cpu: Cpu) -> Context:
    return Context(cpu.hv, cpu.pr, False, cpu.tm != "none")


def refusal(call: int, who: Context, choices: Choices) -> int | None:
    """The dispatcher's own answer, None where the call is let through."""
    if who.hv and who.transactional and call != RETURN:
        return BAD_MODE
    if call in FOR_HOST:
        return None if who.hv and not who.pr else PERMISSION
    if call in FOR_SVM:
        if not who.s:
            return PERMISSION if choices.share_normal == FIRMWARE else INVALID
        return None if not who.hv and not who.pr else PERMISSION
    if call == ESM:
        return None if not who.hv and not who.pr else PERMISSION
    return None if call == ESMB_GET_FILE else FUNCTION
