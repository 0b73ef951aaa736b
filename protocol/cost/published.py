"""Published figures beside what the model says: which of them the model was made from, and which it
predicts.

A figure that a parameter was set by (`fitted`) agrees by construction and validates nothing. A
`predicted` one comes from another source or another measurement than every entry its formula uses; the
model reproduces it if the published interval meets the model's range. Not all are reproduced, and which
are not is said as well, with what is known about why; a parameter set to one of them would make it a fit.
Figures that there is nothing to predict from stand in `UNTRIED`. The range is that of the costs: all
entries of the formula at their lower, at their upper bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from protocol.cost.formulas import GIB, Formulas
from protocol.cost.table import Costs

FITTED, PREDICTED = "fitted", "predicted"
OVMF_PAGES = 256  # 1 MiB of firmware, as SEVeriFast's baseline loads it
Get = Callable[[str], float]  # an entry of the table, or with "factor." before it a number without unit


@dataclass(frozen=True, slots=True)
class Published:
    """A figure of somebody else. `low` and `high` are what was published, in `unit`."""

    name: str
    low: float
    high: float
    unit: str
    use: str
    group: str
    source: str
    mark: str  # a word by which the source is known; no entry that a prediction uses may have it
    model: Callable[[Get], float]
    missed: str = ""  # of one that is not reproduced: what is known about why


@dataclass(frozen=True, slots=True)
class Checked:
    """A figure, what the model says, in the figure's unit, and the entries that it used."""

    figure: Published
    value: float
    low: float
    high: float
    entries: tuple[str, ...]

    @property
    def reproduced(self) -> bool:
        """Whether what was published meets the model's range."""
        return self.low <= self.figure.high and self.figure.low <= self.high


def _formulas(get: Get, group: str) -> Formulas:
    return Formulas(_NO_COSTS, group, cost=get, factor=lambda name: get(f"factor.{name}"))


_NO_COSTS = Costs({})


def _tdx_page(get: Get) -> float:
    """A page of a TD by a fault, exit, AUG and ACCEPT: ns."""
    return float(_formulas(get, "tdx").boot_page("hosted", "two_fault"))


def _eager(gib: int, vcpus: int) -> Callable[[Get], float]:
    """Accepting all memory at boot, with an Amdahl share that workers cannot divide: seconds."""

    def model(get: Get) -> float:
        serial = get("factor.secure_serial_fraction") if vcpus > 1 else 0.0
        return gib * GIB / 4096 * _tdx_page(get) * (serial + (1 - serial) / vcpus) / 1e9

    return model


def _launch(get: Get, pages: int) -> float:
    """Time of the secure processor for one SNP guest: ns."""
    fixed = get("te_vm_create") + get("te_vcpu_create") + get("te_launch_finish")
    return fixed + pages * get("te_page_add_measured")


FIGURES: tuple[Published, ...] = (
    Published(
        "hypercall of an L3 guest, x86", 390, 390, "us", FITTED, "tdx", "DVH, ASPLOS 2020, table 3", "DVH",
        lambda get: float(_formulas(get, "tdx").null_exit(3)) / 1e3,
    ),
    Published(
        "live to dead page of a TD", 3.0, 11.9, "times", FITTED, "tdx",
        "KVM_TDX_TERMINATE_VM patch V4: 72 s and 24 s to 5,539 s and 467 s", "TERMINATE_VM",
        lambda get: get("te_page_unsecure_live") / get("te_page_reclaim_dead"),
    ),
    Published(
        "exits of an SNP guest that accepts 4 MiB", 1024, 1024, "exits", FITTED, "snp",
        "QEMU commit 4cdc489eb9c2", "4cdc489eb9c2", lambda get: get("factor.pagestate_extra_exits_per_4mib"),
    ),
    Published(
        "secure page of a TD by a fault", 11.4, 11.4, "us", FITTED, "tdx",
        "intel/lkvs tdx_mem_test.sh: 24 s for 8 GiB", "lkvs", lambda get: _tdx_page(get) / 1e3,
    ),
    Published(
        "eager accept of 8 GiB, 1 VCPU", 25, 30, "s", PREDICTED, "tdx", "asterinas pulls 1691 and 3640",
        "asterinas", _eager(8, 1),
    ),
    Published(
        "eager accept of 8 GiB, 4 VCPUs", 12, 12, "s", PREDICTED, "tdx", "asterinas pulls 1691 and 3640",
        "asterinas", _eager(8, 4),
    ),
    Published(
        "eager accept of 8 GiB, 8 VCPUs", 9, 9, "s", PREDICTED, "tdx", "asterinas pulls 1691 and 3640",
        "asterinas", _eager(8, 8),
    ),
    Published(
        "secure page of a TD with 248 VCPUs", 153, 153, "us", PREDICTED, "tdx",
        "Dstack-TEE/dstack pull 1220", "Dstack", lambda get: (_tdx_page(get) + 248 * get("vcpu_kick")) / 1e3,
    ),
    Published(
        "firmware accepts 64 GiB eagerly", 90, float("inf"), "s", PREDICTED, "tdx",
        "kata-containers issue 13535: more than 90 s", "kata", _eager(64, 1),
    ),
    Published(
        "boot of one SNP guest under QEMU with OVMF", 4.0, 4.0, "s", PREDICTED, "snp",
        "SEVeriFast, figure concurrent-boot", "concurrent-boot",
        lambda get: (
            get("vmm_process_start") + _launch(get, OVMF_PAGES) + get("firmware_boot") + get("vm_boot_base")
        ) / 1e9,
    ),
    Published(
        "each further SNP guest under QEMU with OVMF", 556, 556, "ms", PREDICTED, "snp",
        "SEVeriFast, figure concurrent-boot", "concurrent-boot",
        lambda get: _launch(get, OVMF_PAGES) / 1e6,
        "the 256 commands for 1 MiB of firmware add 257 ms if guests take turns at each command, and half of "
        "it if each keeps its turn; what more of the 3.2 s that OVMF runs waits in line is not published",
    ),
)  # fmt: skip

# (figure, published, why nothing is predicted)
UNTRIED: tuple[tuple[str, str, str], ...] = (
    (
        "each further SEVeriFast microVM", "33 ms",
        "how many pages its verifier has measured is not in the figure; by the model 27 would be 33 ms",
    ),
    (
        "boot of a TD of 64 GiB that accepts lazily", "less than 15 s",
        "2.5 times faster at 4 GB, 4 times at 64 GB: what is accepted at boot grows, and nobody says how",
    ),
    (
        "LAUNCH_UPDATE_DATA, RMPUPDATE, WBINVD and DF_FLUSH, any call of s390 or PEF", "nothing",
        "no measurement was found: each is an assumption, or priced like its nearest neighbour",
    ),
)  # fmt: skip


def checked(costs: Costs) -> Iterator[Checked]:
    """What the model says about every figure."""
    for figure in FIGURES:
        used: list[str] = []
        value, low, high = (
            figure.model(_at(costs, figure.group, which, used)) for which in ("value", "low", "high")
        )
        ends = (value, low, high)
        yield Checked(figure, value, min(ends), max(ends), tuple(dict.fromkeys(used)))


def _at(costs: Costs, group: str, which: str, used: list[str]) -> Get:
    """Entries of the table at their values or at one of their bounds; those that are asked for are noted."""

    def get(name: str) -> float:
        used.append(name)
        kind, _, rest = name.rpartition(".")
        entry: Any = costs.factor(group, rest) if kind == "factor" else costs.of(group, name)
        return float(getattr(entry, which))

    return get


def rows(costs: Costs) -> list[dict[str, Any]]:
    """The same as plain tables, for whoever prints them."""
    return [
        {
            "what": each.figure.name,
            "unit": each.figure.unit,
            "published": [each.figure.low, None if each.figure.high == float("inf") else each.figure.high],
            "model": [float(f"{value:.4g}") for value in (each.value, each.low, each.high)],
            "use": each.figure.use,
            "reproduced": each.reproduced,
            "source": each.figure.source,
            **({"missed": each.figure.missed} if each.figure.missed and not each.reproduced else {}),
        }
        for each in checked(costs)
    ]
