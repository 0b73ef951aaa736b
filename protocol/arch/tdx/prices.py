"""What calls cost, in entries of the cost table.

Which entry a call is priced by is an assumption of this file. An entry of the table may stand for several
calls that always come together (a TD's creation, a measured page, a removal); then one of them pays for all
and the others nothing. VP.ENTER is paid by the exit that ends it. PAGE.WBINVD has the price of any call,
though the table's removal of a page was measured with it.
"""

from __future__ import annotations

from protocol.arch.tdx.calls import CALLS
from protocol.cost.price import Prices

_FIXED = ("te_call_fixed",)
_PAID: tuple[str, ...] = ()  # by another call
_SPECIAL = {
    "sys_tdmr_init": ("te_platform_init_gib",),  # an emulated call does one GiB
    "mng_create": ("te_vm_create",),
    "mng_key_config": _PAID,
    "mng_addcx": _PAID,
    "mng_init": _PAID,
    "vp_create": ("te_vcpu_create",),
    "vp_addcx": _PAID,
    "vp_init": _PAID,
    "vp_enter": _PAID,
    "mem_page_add": ("te_page_add_measured",),
    "mr_extend": _PAID,
    "mr_finalize": ("te_launch_finish",),
    "mem_page_aug": ("te_page_secure",),
    "mem_range_block": _PAID,
    "mem_track": _PAID,
    "mem_page_remove": ("te_page_unsecure_live",),
    "vp_flush": ("te_vcpu_destroy",),
    "mng_vpflushdone": _PAID,
    "mng_key_freeid": ("te_vm_destroy",),
    "phymem_cache_wb": ("te_cache_flush",),
    "phymem_page_reclaim": ("te_page_reclaim_dead",),
}

PRICES = Prices(
    group="tdx",
    calls={spec.name: _SPECIAL.get(spec.name, _FIXED) for spec in CALLS.values()},
    guest_calls={
        spec.name: ("te_guest_call",)
        for spec in CALLS.values()
        if spec.for_guest() and spec.name not in ("tdg_mem_page_accept", "tdg_vp_vmcall")
    },  # acceptance is part of a page's price, a TDVMCALL is an exit
    entry="vmresume",
    kicks={"mem_page_remove": ("vcpu_kick",)},  # every VCPU has to leave the TD before a page may go
)
