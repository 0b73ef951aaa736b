"""The PEF slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.profiles import MIN_MEMORY_MIB, PROFILES, Profile
from protocol.arch.slices import BaseSlice
from protocol.calls import CallSpec
from protocol.nesting.sizes import Sizes

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison
    from protocol.arch.pef.keyboard import PefKeyboard
    from protocol.arch.pef.watch import ExplainingKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility


class Pef(BaseSlice["PefKeyboard"]):
    """POWER: the Protected Execution Facility."""

    name = "pef"
    title = "POWER Protected Execution Facility"
    realism = "needs_te_change"
    max_depth = 8
    least_memory_mib = MIN_MEMORY_MIB

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.pef.comparison import COMPARISON

        return COMPARISON

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return PROFILES

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def explain(self) -> Explainer:
        from protocol.arch.pef.explain import EXPLAINER

        return EXPLAINER

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.pef.feasibility import FEASIBILITY

        return FEASIBILITY

    def explaining(self, keyboard: PefKeyboard) -> ExplainingKeyboard:
        from protocol.arch.pef.watch import ExplainingKeyboard

        return ExplainingKeyboard(keyboard)

    def fresh(self, profile: Profile, sizes: Sizes) -> PefKeyboard:
        from protocol.arch.pef.compose import compose
        from protocol.arch.pef.keyboard import PefKeyboard
        from protocol.arch.pef.profiles import V1, V2

        apis = {"": None, "mapped": V1, "passed": V2}
        word = sizes.strategy.get("handles", "")
        if word not in apis:
            raise ValueError(f"strategy.handles {word!r}: allowed: passed, mapped")
        return PefKeyboard(
            compose(
                profile, sizes.depth, sizes.hosts, sizes.memory_bytes, sizes.cpus, sizes.seed, api=apis[word]
            )
        )


SLICE = Pef()
