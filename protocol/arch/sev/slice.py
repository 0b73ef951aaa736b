"""The AMD slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.profiles import PROFILES, Profile
from protocol.arch.slices import BaseSlice
from protocol.calls import CallSpec
from protocol.nesting.sizes import Sizes

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison
    from protocol.arch.sev.keyboard import SevKeyboard
    from protocol.arch.sev.watch import ExplainingKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility


class Sev(BaseSlice["SevKeyboard"]):
    """AMD: the secure processor and the RMP. What is compared are guests of one kind."""

    def __init__(self, name: str, title: str, realism: str) -> None:
        self.name = name
        self.title = title
        self.realism = realism  # somebody runs nested SNP; nobody has written nested SEV and SEV-ES

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.sev.comparison import COMPARISONS

        return COMPARISONS[self.name]

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return {name: profile.of_kind(self.name) for name, profile in PROFILES.items()}

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def explain(self) -> Explainer:
        from protocol.arch.sev.explain import EXPLAINER

        return EXPLAINER

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.sev.feasibility import FEASIBILITY

        return FEASIBILITY

    def explaining(self, keyboard: SevKeyboard) -> ExplainingKeyboard:
        from protocol.arch.sev.watch import ExplainingKeyboard

        return ExplainingKeyboard(keyboard)

    def fresh(self, profile: Profile, sizes: Sizes) -> SevKeyboard:
        from protocol.arch.sev.compose import compose
        from protocol.arch.sev.keyboard import SevKeyboard

        return SevKeyboard(
            compose(profile, sizes.depth, sizes.hosts, sizes.memory_bytes, sizes.cpus, sizes.seed)
        )


SLICE = Sev("sev", "AMD SEV", "software")
KINDS = {
    "sev-es": Sev("sev-es", "AMD SEV-ES", "software"),
    "snp": Sev("snp", "AMD SEV-SNP", "built"),
}
