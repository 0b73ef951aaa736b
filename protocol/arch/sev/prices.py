"""What commands and RMP instructions cost, in entries of the cost table.

Which entry a call is priced by is an assumption of this file. RMPUPDATE has one price, whatever it makes of
the page: by its count nobody can tell. What the table has for bringing up a platform was measured around
SNP's initialisation, so INIT of the legacy platform is a command like any other. A LAUNCH_UPDATE_DATA or
_VMSA of a legacy guest costs what its pages do, each as much as one of SNP, which is one command: nobody has
published the legacy ones. DF_FLUSH has the price of the WBINVD on every core that it wants before.
"""

from __future__ import annotations

from protocol.arch.sev.calls import CALLS
from protocol.cost.price import Prices

_FIXED = ("te_call_fixed",)
_SPECIAL = {
    "SNP_INIT": ("te_platform_init",),
    "SNP_INIT_EX": ("te_platform_init",),
    "SNP_LAUNCH_UPDATE": ("te_page_add_measured",),
    "RMPUPDATE": ("te_page_secure",),
    "PSMASH": ("te_page_secure",),
    "LAUNCH_UPDATE_DATA": (),
    "LAUNCH_UPDATE_VMSA": (),
    "DF_FLUSH": ("te_cache_flush",),
    "SNP_DF_FLUSH": ("te_cache_flush",),
}

PRICES = Prices(
    group="snp",
    calls={
        name: _SPECIAL.get(name, _FIXED) for name in ({spec.name for spec in CALLS.values()} | {*_SPECIAL})
    },
    guest_calls={},
    entry="vmrun",
    pages={"launch": ("te_page_add_measured",)},
)
