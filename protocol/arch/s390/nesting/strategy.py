"""How a level emulates the Ultravisor: choices of a scenario that this level has to know of.

`handles`: real handles are passed on to the guest host, or mapped to numbers of the level's own.
`donation`: `full` gives the level's own memory to the Ultravisor and takes the guest host's away in
exchange, `bounded` makes the guest host's inaccessible but leaves it where it is, `off` does neither, so
the natural limit on secure resources is lost. `teardown`: after a sudden reboot the guest host waits until
all pages of its guests are destroyed (`sync`), or gets fresh memory where it touches one (`async`).

`pages` says how a page becomes secure. `two_fault` and `merged_l1` differ in what the guest host's own
kernel does, so this level does nothing for either. With `merged_l0` it imports a page by itself when the
guest touches it, with `prefault` all pages that the guest host maps, once the image is verified: pages
become secure without a call of the guest host. A guest host has to know that, so both are enlightenments,
and the emulation is no longer the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.calls import Donation

HANDLES = ("passed", "mapped")
DONATION = {"full": Donation.SWAPPED, "bounded": Donation.VIRTUAL, "off": Donation.NONE}
PAGES = ("two_fault", "merged_l1", "merged_l0", "prefault")
TEARDOWN = ("sync", "async")
ENLIGHTENED = ("merged_l0", "prefault")


@dataclass(frozen=True, slots=True)
class Strategy:
    """The words of the scenario. Raises ValueError for a word that is none."""

    handles: str = "passed"
    donation: str = "full"
    teardown: str = "sync"
    pages: str = "two_fault"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("handles", HANDLES),
            ("donation", tuple(DONATION)),
            ("teardown", TEARDOWN),
            ("pages", PAGES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")

    @property
    def donated(self) -> Donation:
        """What happens to an area that the call table says is swapped."""
        return DONATION[self.donation]

    def for_hypervisor(self) -> Strategy:
        """The same for a guest host that is itself a hypervisor of secure hosts.

        Its books are filled by its guest host's calls, so a page that became secure without one would be
        missing in them: it is told of no enlightenment and gets none.
        """
        return replace(self, pages="two_fault") if self.enlightenments else self

    @property
    def enlightenments(self) -> tuple[str, ...]:
        """Facilities beyond the architecture that the guest host has to be told of."""
        return (self.pages,) if self.pages in ENLIGHTENED else ()
