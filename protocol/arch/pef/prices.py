"""What ultracalls cost, in entries of the cost table.

Which entry a call is priced by is an assumption of this file.
"""

from __future__ import annotations

from protocol.arch.pef.calls import CALLS
from protocol.cost.price import Prices

_FIXED = ("te_call_fixed",)
_SPECIAL = {
    "UV_REGISTER_MEM_SLOT": ("te_vm_create",),
    "UV_PAGE_IN": ("te_page_secure",),
    "UV_PAGE_OUT": ("te_page_unsecure_live",),
    "UV_SVM_TERMINATE": ("te_vm_destroy",),
}

PRICES = Prices(
    group="pef",
    calls={spec.name: _SPECIAL.get(spec.name, _FIXED) for spec in CALLS.values()},
    guest_calls={
        "UV_SHARE_PAGE": ("te_mem_share",),
        "UV_UNSHARE_PAGE": ("te_mem_share",),
        "UV_ESM": ("te_launch_finish",),
    },
    entry="enter_nested",
)
