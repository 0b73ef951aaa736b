"""The s390 slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.profiles import PROFILES, Profile
from protocol.arch.slices import BaseSlice
from protocol.calls import CallSpec
from protocol.nesting.sizes import Sizes

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison, Owner
    from protocol.arch.s390.keyboard import S390Keyboard
    from protocol.arch.s390.watch import ExplainingKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility


class S390(BaseSlice["S390Keyboard"]):
    """IBM Z: the Ultravisor."""

    name = "s390"
    title = "IBM Z Secure Execution"
    realism = "prototype"

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return PROFILES

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.s390.comparison import COMPARISON

        return COMPARISON

    @property
    def owner(self) -> Owner:
        from protocol.arch.s390.owner import OWNER

        return OWNER

    @property
    def explain(self) -> Explainer:
        from protocol.arch.s390.explain import EXPLAINER

        return EXPLAINER

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.s390.feasibility import FEASIBILITY

        return FEASIBILITY

    def explaining(self, keyboard: S390Keyboard) -> ExplainingKeyboard:
        from protocol.arch.s390.watch import ExplainingKeyboard

        return ExplainingKeyboard(keyboard)

    def fresh(self, profile: Profile, sizes: Sizes) -> S390Keyboard:
        from protocol.arch.s390.compose import compose
        from protocol.arch.s390.keyboard import S390Keyboard
        from protocol.arch.s390.nesting.strategy import Strategy

        words = Strategy(**sizes.strategy)
        return S390Keyboard(
            compose(profile, sizes.depth, sizes.hosts, sizes.memory_bytes, sizes.cpus, sizes.seed, words)
        )


SLICE = S390()
