"""How many exits depth costs: the closed law that the emulation's recursion obeys.

What happens at a level costs arrivals at L0 by where it happens, and each further level doubles them: an exit
is handed up, and the way back is an instruction of a hypervisor that traps again.

    an exit of the guest above a host at depth d, back and forth        2^d
    an act of that host that traps (a call, a watched store)            2^d - 1
    an act of its own of each hypervisor between it and L0              2^d - 1 - d, together

This is the recursion of fact sheet 2.3 with a null exit in place of a time: R(k) = 2^(k-1), the hypervisor
above L0 taking no traps but those with which it issues and enters again. A real one takes more (31 for an
exit of x86, Turtles 4.1), which is what the level multiplier of the costs is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recursion:
    """What is done once, whatever the depth: by the guest, by its host, by each hypervisor between."""

    exits: int  # of the guest
    acts: int  # of its host
    between: int  # of each hypervisor that is neither its host nor L0

    def at(self, depth: int) -> int:
        """Arrivals at L0 with the host at `depth`; 0 is the machine's own host."""
        if depth < 0:
            raise ValueError(f"depth {depth}: allowed is 0 or more")
        act = (1 << depth) - 1
        return self.exits * (1 << depth) + self.acts * act + self.between * max(act - depth, 0)


def found(exits: int, first: int, second: int) -> Recursion:
    """The recursion with these arrivals at depth 1 and 2, and `exits` of the guest that nothing nests.

    What it says about any other depth is a prediction. Raises ValueError where no whole numbers fit.
    """
    acts = first - 2 * exits
    between = second - 4 * exits - 3 * acts
    if min(exits, acts, between) < 0:
        raise ValueError(f"{exits}, {first}, {second}: no recursion has these counts")
    return Recursion(exits, acts, between)


def differs(recursion: Recursion, counted: Sequence[int]) -> int:
    """The most by which the law is off, over depths 1, 2, 3 and so on."""
    return max(abs(recursion.at(depth) - exits) for depth, exits in enumerate(counted, 1))
