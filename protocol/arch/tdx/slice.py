"""The TDX slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.slices import BaseSlice
from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.profiles import MIN_MEMORY_MIB, PROFILES, Profile
from protocol.calls import CallSpec
from protocol.nesting.sizes import Sizes

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison
    from protocol.arch.tdx.keyboard import TdxKeyboard
    from protocol.arch.tdx.watch import ExplainingKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility

REFUSED_PROFILES = {
    "partitioning": "TD partitioning is no nesting target: there a TD hosts VMs that are not protected from "
    "it, with the module's own help, so no hypervisor has anything to emulate"
}


class Tdx(BaseSlice["TdxKeyboard"]):
    """Intel: the TDX module."""

    name = "tdx"
    title = "Intel Trust Domain Extensions"
    realism = "software"
    refused_profiles = REFUSED_PROFILES
    least_memory_mib = MIN_MEMORY_MIB

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.tdx.comparison import COMPARISON

        return COMPARISON

    @property
    def explain(self) -> Explainer:
        from protocol.arch.tdx.explain import EXPLAINER

        return EXPLAINER

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return PROFILES

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.tdx.feasibility import FEASIBILITY

        return FEASIBILITY

    def least_cpus(self, profile: Profile) -> int:
        return profile.packages

    def explaining(self, keyboard: TdxKeyboard) -> ExplainingKeyboard:
        from protocol.arch.tdx.watch import ExplainingKeyboard

        return ExplainingKeyboard(keyboard)

    def fresh(self, profile: Profile, sizes: Sizes) -> TdxKeyboard:
        from protocol.arch.tdx.compose import compose
        from protocol.arch.tdx.keyboard import TdxKeyboard

        return TdxKeyboard(
            compose(profile, sizes.depth, sizes.hosts, sizes.memory_bytes, sizes.cpus, sizes.seed)
        )


SLICE = Tdx()
