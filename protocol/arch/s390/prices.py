"""What the Ultravisor's calls cost, in entries of the cost table. All of them are assumptions there."""

from __future__ import annotations

from protocol.arch.s390.calls import CALLS
from protocol.cost.price import Prices

_FIXED = ("te_call_fixed",)
_SPECIAL = {
    "init": ("te_platform_init",),
    "create_config": ("te_vm_create",),
    "destroy_config": ("te_vm_destroy",),
    "destroy_config_fast": ("te_vm_destroy",),
    "create_cpu": ("te_vcpu_create",),
    "destroy_cpu": ("te_vcpu_destroy",),
    "set_params": _FIXED,
    "verify": ("te_launch_finish",),
    "unpack": ("te_page_add_measured",),
    "convert_to_secure": ("te_page_secure",),
    "convert_from_secure": ("te_page_unsecure_live",),
    "destroy_storage": ("te_page_reclaim_dead",),
}

PRICES = Prices(
    group="s390",
    calls={spec.name: _SPECIAL.get(spec.name, _FIXED) for spec in CALLS.values()},
    guest_calls={"share": ("te_mem_share",), "unshare": ("te_mem_share",)},
)
