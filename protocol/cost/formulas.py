"""What nesting and hosting take by closed formulas, from primitive costs alone; nothing is counted here.

Fact sheet 2.2 and 2.3 of the costs. They price logical messages, with a factor for each level; counts that
an emulation made are priced in `price`, exit by exit, and the two are never added. Costs may be numbers or
arrays of draws: the formulas are the same.

Symbols: X, G, X2 as in the table (`exit_l1_l0`, `te_guest_exit_extra`, `exit_nested`); n exits for each page
at boot by policy; p0 the share of pages that L0 has not yet backed; z traps that a hypervisor above L0 takes
to handle one exit; M the level multiplier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.cost.table import Costs

Number = Any  # float, or an array of draws
POLICIES = ("two_fault", "merged", "prefault")
PAGE_BYTES = 4096
PEF_PAGE_BYTES = 65536
GIB = 1 << 30
TRAPS = 2  # z, on every architecture: a default of the sheet


class Formulas:
    """The formulas of one architecture (a group of the table)."""

    def __init__(
        self,
        costs: Costs,
        group: str,
        cost: Callable[[str], Number] | None = None,
        factor: Callable[[str], Number] | None = None,
    ) -> None:
        self.group = group
        self._cost = cost or (lambda name: costs.of(group, name).value)
        self._factor = factor or (lambda name: costs.factor(group, name).value)

    @property
    def page_bytes(self) -> int:
        return PEF_PAGE_BYTES if self.group == "pef" else PAGE_BYTES

    @property
    def work(self) -> Number:
        """h: what the level below does for one page call, without exit and without the TE."""
        c = self._cost
        tables = c("translate_addr") + c("table_lookup") + c("table_insert")
        return 2 * c("l1_mem_access") + tables + c("pin_page")

    def page_call(self, depth: int = 1) -> Number:
        """C_d: a host at this depth makes one page secure; 0 is the real Trusted Entity alone."""
        te = self._cost("te_page_secure")
        reissued = sum((self.null_exit(level) for level in range(1, depth + 1)), 0.0)
        handling = sum((TRAPS * self.null_exit(level - 1) for level in range(1, depth + 1)), 0.0)
        return te + depth * self.work + reissued + handling

    def null_exit(self, level: int) -> Number:
        """R(k): a null exit of a guest at level k that its parent answers. L0 has none."""
        return self._cost("exit_l1_l0") * self._factor("level_multiplier") ** (level - 1) if level else 0.0

    # -- the life of a guest -------------------------------

    def boot_page(self, path: str, policy: str, p0: Number = 1.0) -> Number:
        """One page that a booting guest touches first."""
        c = self._cost
        n = self._factor(f"boot_exits_per_page_{policy}")
        if path == "hosted":
            return n * (c("exit_l1_l0") + c("te_guest_exit_extra")) + c("page_fault_l0") + c("te_page_secure")
        exits = n * (c("exit_nested") + c("te_guest_exit_extra")) + c("page_fault_l1")
        if policy == "prefault":
            return exits + p0 * c("page_fault_l0") + self.work + c("te_page_secure")
        return exits + p0 * (c("exit_l1_l0") + c("page_fault_l0")) + self.page_call()

    def boot_page_merged_in_l0(self, p0: Number = 1.0) -> Number:
        """The same where L0 secures the page while it resolves the fault, with no call of L1."""
        c = self._cost
        exits = c("exit_nested") + c("te_guest_exit_extra") + c("page_fault_l1")
        backed = p0 * (c("exit_l1_l0") + c("page_fault_l0"))
        return exits + backed + self.work + c("te_page_secure")

    def boot(self, path: str, policy: str, size: int) -> Number:
        """Touching `size` bytes once. A guest's own work and its image are not in it."""
        return size // self.page_bytes * self.boot_page(path, policy)

    def lost(self, path: str, rate: Number, answered_by_l0: Number = 0.0) -> Number:
        """Share of a CPU that exits take, at `rate` of them in a second."""
        c = self._cost
        own = c("exit_l1_l0") + c("te_guest_exit_extra")
        nested = c("exit_nested") + c("te_guest_exit_extra")
        share = 1.0 if path == "hosted" else answered_by_l0
        return rate * (share * own + (1 - share) * nested) / 1e9

    def reboot(self, guests: int, size: int, live: bool, workers: int = 1, serial: Number = 0.0) -> Number:
        """A guest host is gone; L0 walks its tables. `live`: pages leave a guest that is still there."""
        c = self._cost
        page = c("table_remove") + c("te_page_unsecure_live" if live else "te_page_reclaim_dead")
        whole = guests * (size // self.page_bytes) * page
        return whole * (serial + (1 - serial) / workers)

    def waits(self, guests: int, vcpus: int) -> Number:
        """The same behind the guest host's back: guests are marked, their CPUs end, no page goes."""
        c = self._cost
        return guests * (c("table_lookup") + c("table_insert") + vcpus * c("te_vcpu_destroy"))

    def fault(self, depth: int, policy: str = "merged") -> Number:
        """One page that a guest above a host at this depth touches first."""
        c = self._cost
        n = self._factor(f"boot_exits_per_page_{policy}")
        exits = n * (self.null_exit(depth + 1) + c("te_guest_exit_extra")) + c("page_fault_l1")
        backed = sum((self.null_exit(j) + c("page_fault_l0") for j in range(1, depth + 1)), 0.0)
        return exits + backed + self.page_call(depth)

    # -- hosting -------------------------------------------

    def request(self, size: int = 0, over: str = "vsock") -> Number:
        """Q: one request of an L1 host to L0; `over` is vsock, net or hypercall."""
        c = self._cost
        if over == "hypercall":
            return c("hypercall_request")
        way = c("net_rtt") if over == "net" else c("vsock_rtt") + size / 1024 * c("vsock_per_kib")
        return way + c("broker_dispatch")

    def hosted(self, depth: int, relayed: bool) -> Number:
        """One request of a host at this depth: everybody asks L0, or each level passes it on."""
        return depth * self.request() if relayed else self.request()


def groups() -> dict[str, str]:
    """Kind of guest -> group of the table, where the names differ: all of AMD have one secure processor."""
    return {"sev": "snp", "sev-es": "snp"}
