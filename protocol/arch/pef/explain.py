"""What answers mean beyond the call table: sections 2, 3 and 9 of the fact sheet, and what KVM and Linux do.

A code has two names, by who is asked: U_PARAMETER of an ultracall is H_PARAMETER of a hypercall.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.arch.pef import front, hcalls
from protocol.arch.pef import status as u
from protocol.arch.pef.coverage import COVERED, GENERAL_COVERED
from protocol.calls import CallSpec
from protocol.explain import Meaning, number_of
from protocol.knowledge import Knowledge, never

BAD_MODE, FUNCTION, SUCCESS, TOO_HARD = (
    u.unsigned(code) for code in (u.BAD_MODE, u.FUNCTION, u.SUCCESS, u.TOO_HARD)
)
_FIRST = "before any check of the call itself, number {} of 3"
GENERAL = (
    Meaning(
        BAD_MODE,
        "a hypervisor's CPU has a transaction under way",
        place=_FIRST.format(1) + "; UV_RETURN is let through, and its guest takes a program interrupt",
        source="3",
    ),
    Meaning(
        FUNCTION,
        "there is no such call, or no ultravisor",
        place=_FIRST.format(3) + ", behind the caller's state",
        source="3",
        notes=("a hypercall that neither KVM nor the VMM knows answers H_FUNCTION", "4.1: SMFCTRL[E] is off"),
    ),
    Meaning(
        SUCCESS,
        "done; of UV_ESMB_GET_FILE it is the number of bytes, 0 at the end of the file",
        source="2, 5.4",
    ),
    Meaning(
        TOO_HARD,
        "inside KVM: userspace has to answer this hypercall",
        source="2",
        given=False,
        notes=("no guest ever sees it",),
    ),
)
_TERMINATE = "UV_SVM_TERMINATE"
_BY_DOCUMENTATION = "as the documentation has it: profile `documentation` answers it"
_BY_FIRMWARE = "as the published firmware has it: profile `firmware` answers it"


def _other(call: str, code: int, text: str, why: str) -> Meaning:
    return never(call, u.unsigned(code), text, why, source="9")


ELSEWHERE = (
    _other("UV_ESM", u.PARAMETER, "no kernel", _BY_DOCUMENTATION),
    _other("UV_ESM", u.P2, "no device tree", _BY_DOCUMENTATION),
    _other("UV_ESM", u.RETRY, "the VM is secure already", _BY_FIRMWARE),
    _other("UV_PAGE_OUT", u.SUCCESS, "the page is shared, and nothing is done", _BY_DOCUMENTATION),
    _other("UV_PAGE_INVAL", u.P2, "GPA in no slot", _BY_DOCUMENTATION),
    _other("UV_WRITE_PATE", u.PERMISSION, "the LPID is an SVM's", _BY_DOCUMENTATION),
    _other("UV_SVM_TERMINATE", u.SUCCESS, "nothing runs under this LPID, or no SVM", _BY_FIRMWARE),
    _other("UV_REGISTER_MEM_SLOT", u.P2, "address not on a page, or overlap", _BY_DOCUMENTATION),
    _other("UV_REGISTER_MEM_SLOT", u.P3, "size 0, past the end, or no memory", _BY_DOCUMENTATION),
    _other("UV_REGISTER_MEM_SLOT", u.P5, "slot number too high, or in use", _BY_DOCUMENTATION),
    *(
        _other(name, u.PARAMETER, "range not in slots", _BY_DOCUMENTATION)
        for name in ("UV_SHARE_PAGE", "UV_UNSHARE_PAGE")
    ),
    *(
        _other(name, u.INVALID, "caller is not secure; no number is published", _BY_DOCUMENTATION)
        for name in ("UV_SHARE_PAGE", "UV_UNSHARE_PAGE", "UV_UNSHARE_ALL_PAGES")
    ),
    _other("H_RANDOM", u.FUNCTION, "not implemented", _BY_FIRMWARE),
    _other("H_SVM_INIT_START", u.STATE, "INIT_START is set already", _BY_DOCUMENTATION),
    never(
        "UV_PAGE_OUT",
        u.unsigned(u.RETRY),
        "no memory for the key",
        "keys take no memory that could run out",
        source="5.4",
    ),
    never(
        "UV_ESM",
        u.unsigned(u.RETRY),
        "no memory for the object",
        "objects take no memory that could run out",
        source="5.4",
    ),
)

_ABORT = "KVM answers the ultravisor, which aborts the transition: H_SVM_INIT_ABORT comes next"
# call -> what KVM, its VMM and the guest's Linux do with any error of it.
OF_ANY_ERROR = {
    "UV_ESM": ("Linux ends by RTAS `ibm,os-term`: whoever asked for a secure guest gets no other",),
    "UV_REGISTER_MEM_SLOT": (
        "H_SVM_INIT_START then answers H_PARAMETER; slots registered before are unregistered again",
    ),
    "UV_PAGE_IN": ("H_SVM_PAGE_IN then answers H_PARAMETER and keeps the page normal",),
    "UV_PAGE_OUT": ("whoever touched the page in the VMM gets SIGBUS; the GFN's word stays as it was",),
    "UV_PAGE_INVAL": ("KVM's notifier does not look at the answer",),
    "UV_SVM_TERMINATE": ("KVM_PPC_SVM_OFF answers EINVAL; after an abort nobody looks at it",),
    "H_SVM_INIT_START": (_ABORT,),
    "H_SVM_INIT_DONE": (_ABORT,),
}
# (call, code) -> the same for one code, in place of the above.
OF_A_CODE = {
    ("UV_PAGE_IN", u.unsigned(u.P3)): (
        "a page that was changed outside: the SVM keeps faulting on it until it is put right",
    ),
    ("UV_PAGE_INVAL", u.unsigned(u.P2)): (
        "expected for pages that are not shared: KVM's notifier ignores it",
    ),
    (_TERMINATE, u.unsigned(u.RETRY)): (
        "its vcpu is back when it has left: then the call may be made again. KVM makes it when none is in",
    ),
    ("H_SVM_INIT_ABORT", u.unsigned(u.PARAMETER)): (
        "the way it succeeds: the guest goes on as a normal one and finds it in R3 of its UV_ESM",
    ),
    ("H_SVM_INIT_START", u.unsigned(u.AUTHORITY)): (
        "the VMM did not enable KVM_CAP_PPC_SECURE_GUEST; INIT_START stays set, so that the abort works",
    ),
}
_NUMBERS = {name: code for code, name in u.NAMES.items()} | {"INVALID": u.INVALID}


class PefKnowledge(Knowledge):
    """Codes are negative numbers in a register, and have names."""

    def read(self, text: str) -> int | None:
        """`U_P2`, `H_P2`, `P2`, `-55` or what the register holds."""
        named = _NUMBERS.get(text.removeprefix("U_").removeprefix("H_"))
        if named is not None:
            return u.unsigned(named)
        if text.startswith("-") and text[1:].isdecimal() and len(text) < 12 and 0 < int(text[1:]) < 1 << 31:
            return u.unsigned(int(text))
        return number_of(text)

    def name(self, code: int, call: CallSpec | None) -> str:
        found = u.NAMES.get(u.signed(code), "")
        if not found:
            return ""
        if u.signed(code) == u.INVALID and call is not None and call.name == _TERMINATE:
            found = "INVALID"
        return f"{'H' if call is not None and call.name.startswith('H_') else 'U'}_{found}"

    def possible(self, code: int, call: CallSpec) -> bool:
        """The dispatcher's own answers are those of ultracalls."""
        if call.name.startswith("H_"):
            return code == SUCCESS and call.code not in (hcalls.SVM_INIT_ABORT,)
        if code == BAD_MODE:
            return call.code != front.RETURN
        return code in (SUCCESS, FUNCTION) and call.code != front.RETURN

    def plain(self, code: int) -> tuple[int, Sequence[str]]:
        """Linux's number of U_BUSY is 1, the firmware's own is that of U_FUNCTION."""
        if code == u.BUSY:
            return code, ("Linux knows U_BUSY as 1; the published firmware's own is -2, which is U_FUNCTION",)
        return code, ()


EXPLAINER = PefKnowledge(GENERAL, ELSEWHERE, OF_ANY_ERROR, OF_A_CODE, COVERED, GENERAL_COVERED)
