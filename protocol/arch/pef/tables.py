"""States, and what each call makes of them: section 5 of the fact sheet, as data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum

from protocol.arch.pef.status import P2, PARAMETER, RETRY, SUCCESS

PAGE_SHIFT = 16
PAGE = 1 << PAGE_SHIFT
ORDER = 16  # the only one that any call accepts
UNIT_SHIFT = 21
UNIT = 1 << UNIT_SHIFT
PAGES_PER_UNIT = UNIT // PAGE
SECURE_BIT = 1 << 48  # of a real address: secure memory
MEM_SLOTS = 512  # of an SVM
LPIDS = 4096
ADDRESS_LIMIT = 1 << 52  # guest real addresses that a radix table reaches

MSR_SF = 1 << 63
MSR_S = 0x400000
MSR_EE = 0x8000
MSR_PR = 0x4000


class SvmState(Enum):
    """An SVM as the ultravisor sees it."""

    ACTIVE = "active"
    SECURE = "secure"
    ABORT = "abort"


class Page(IntEnum):
    """A GFN of an SVM as the ultravisor sees it."""

    SECURE = 0
    PAGEDOUT = 1
    SHARED = 2
    SHARED_INV = 3
    SHARED_IMPLICIT = 4
    SHARED_IMPLICIT_INV = 5
    PSEUDO_SHARED = 6
    PSEUDO_SHARED_INV = 7
    HV_SHARING = 8
    HV_SHARED = 9
    HV_SHARED_INV = 10
    HV_UNSHARING = 11
    HV_UNSHARING_INV = 12
    HV_UNSHARED = 13


TRANSIENT = frozenset(
    {
        Page.HV_SHARING,
        Page.HV_SHARED,
        Page.HV_SHARED_INV,
        Page.HV_UNSHARING,
        Page.HV_UNSHARING_INV,
        Page.HV_UNSHARED,
    }
)
EXPLICIT = frozenset({Page.SHARED, Page.SHARED_INV})
IMPLICIT = frozenset({Page.SHARED_IMPLICIT, Page.SHARED_IMPLICIT_INV})
PSEUDO = frozenset({Page.PSEUDO_SHARED, Page.PSEUDO_SHARED_INV})
OWN_FRAME = frozenset({Page.SECURE, *PSEUDO})  # the SVM's accesses go to its secure frame


class Bring(Enum):
    """What a UV_PAGE_IN does with the frame that it is given."""

    COPY = "copy"
    DECRYPT = "decrypt"
    BIND = "bind"  # remember the frame
    NOTHING = "nothing"


# UV_PAGE_IN: what is done, and the state behind it. SECURE and HV_UNSHARED depend on the SVM's state, too.
PAGE_IN: Mapping[Page, tuple[Bring, Page]] = {
    Page.PAGEDOUT: (Bring.DECRYPT, Page.SECURE),
    Page.HV_SHARING: (Bring.BIND, Page.HV_SHARED),
    Page.HV_SHARED: (Bring.BIND, Page.HV_SHARED),
    Page.HV_SHARED_INV: (Bring.BIND, Page.HV_SHARED),
    Page.SHARED: (Bring.BIND, Page.SHARED),
    Page.SHARED_INV: (Bring.BIND, Page.SHARED),
    Page.SHARED_IMPLICIT: (Bring.BIND, Page.SHARED_IMPLICIT),
    Page.SHARED_IMPLICIT_INV: (Bring.BIND, Page.SHARED_IMPLICIT),
    Page.PSEUDO_SHARED: (Bring.BIND, Page.PSEUDO_SHARED),
    Page.PSEUDO_SHARED_INV: (Bring.BIND, Page.PSEUDO_SHARED),
    Page.HV_UNSHARING: (Bring.NOTHING, Page.HV_UNSHARING),
    Page.HV_UNSHARING_INV: (Bring.NOTHING, Page.HV_UNSHARING),
}

# UV_PAGE_OUT of every state but SECURE.
PAGE_OUT: Mapping[Page, int] = {
    page: RETRY if page is Page.HV_UNSHARED else PARAMETER for page in Page if page is not Page.SECURE
}

# UV_PAGE_INVAL: the answer, and the state behind it.
PAGE_INVAL: Mapping[Page, tuple[int, Page]] = {
    Page.SECURE: (P2, Page.SECURE),
    Page.PAGEDOUT: (P2, Page.PAGEDOUT),
    Page.HV_SHARING: (P2, Page.HV_SHARING),
    Page.HV_SHARED: (SUCCESS, Page.HV_SHARED_INV),
    Page.HV_SHARED_INV: (SUCCESS, Page.HV_SHARED_INV),
    Page.SHARED: (SUCCESS, Page.SHARED_INV),
    Page.SHARED_INV: (SUCCESS, Page.SHARED_INV),
    Page.SHARED_IMPLICIT: (SUCCESS, Page.SHARED_IMPLICIT_INV),
    Page.SHARED_IMPLICIT_INV: (SUCCESS, Page.SHARED_IMPLICIT_INV),
    Page.PSEUDO_SHARED: (SUCCESS, Page.PSEUDO_SHARED_INV),
    Page.PSEUDO_SHARED_INV: (SUCCESS, Page.PSEUDO_SHARED_INV),
    Page.HV_UNSHARING: (SUCCESS, Page.HV_UNSHARING_INV),
    Page.HV_UNSHARING_INV: (SUCCESS, Page.HV_UNSHARING_INV),
    Page.HV_UNSHARED: (P2, Page.HV_UNSHARED),
}
