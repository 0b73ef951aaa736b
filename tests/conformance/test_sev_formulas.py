"""Section 6 of the fact sheet as formulas, each for three sizes: what N, V, p, r and k cost, at every depth.

C are commands, U are RMPUPDATEs, S are PSMASHs. N is pages, V VCPUs, p pages that change hands, r runs of
pages that lie together, k secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sev_field import MIB, RMP_AT, RMP_LEN, SLOW_AT_DEPTH_2, Sev, Sevs


@dataclass(frozen=True)
class Size:
    """N, V, p, r, k."""

    pages: int
    vcpus: int
    changed: int
    runs: int
    secrets: int


SIZES = (Size(1, 1, 1, 1, 0), Size(6, 2, 4, 3, 1), Size(20, 4, 20, 7, 3))


@dataclass
class Cost:
    commands: int
    updates: int
    smashes: int
    names: dict[str, int]


def cost(host: Sev) -> Cost:
    """What the host issued since the last time."""
    counts = host.ok("counts")
    names: dict[str, int] = counts.get("psp", {})
    return Cost(sum(names.values()), counts.get("rmpupdate", 0), counts.get("psmash", 0), names)


def sequence(host: Sev, name: str, **fields: Any) -> tuple[dict[str, Any], Cost]:
    host.ok("counts")
    answer = host.ok("sequence", name=name, **fields)
    return answer, cost(host)


def legacy(host: Sev, kind: str, size: Size) -> tuple[dict[str, Any], Cost]:
    wanted = {"pages": size.pages, "runs": size.runs, "vcpus": size.vcpus, "secrets": size.secrets}
    return sequence(host, "launch", kind=kind, **wanted)


def up(sev: Sevs, snp: bool) -> Sev:
    host = sev()
    if snp:
        host.alloc(RMP_LEN, MIB, above=RMP_AT)
        host.cpus_up()
    host.ok("sequence", name="probe")
    return host


@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sev(sev: Sevs, size: Size) -> None:
    """6.2: C = r + 5 + k, and no RMPUPDATE."""
    host = up(sev, snp=False)
    vm, found = legacy(host, "sev", size)
    assert (found.commands, found.updates) == (size.runs + 5 + size.secrets, 0)
    assert found.names["LAUNCH_UPDATE_DATA"] == size.runs
    assert found.names.get("LAUNCH_SECRET", 0) == size.secrets
    assert sequence(host, "attest", vm=vm["vm"])[1].names == {"ATTESTATION": 2}
    assert sequence(host, "destroy", vm=vm["vm"])[1].names == {"DEACTIVATE": 1, "DECOMMISSION": 1}


@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sev_es(sev: Sevs, size: Size) -> None:
    """6.3: C = r + V + 5 + k."""
    host = up(sev, snp=False)
    vm, found = legacy(host, "es", size)
    assert (found.commands, found.updates) == (size.runs + size.vcpus + 5 + size.secrets, 0)
    assert found.names["LAUNCH_UPDATE_VMSA"] == size.vcpus
    assert sequence(host, "attest", vm=vm["vm"])[1].names == {"ATTESTATION": 2}
    assert sequence(host, "destroy", vm=vm["vm"])[1].names == {"DEACTIVATE": 1, "DECOMMISSION": 1}


@pytest.mark.parametrize("kind", ["sev", "es"])
@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_legacy_guests_where_snp_is_on(sev: Sevs, kind: str, size: Size) -> None:
    """6.2 with SNP: 2 U and a RECLAIM for each updated page, for the buffers of LAUNCH_START and of MEASURE
    twice, and for the output of MEASURE. A secret's page is updated, too.
    """
    host = up(sev, snp=True)
    vmsas = size.vcpus if kind == "es" else 0
    vm, found = legacy(host, kind, size)
    lent = size.pages + vmsas + size.secrets + 4
    assert found.names["SNP_PAGE_RECLAIM"] == lent
    assert found.updates == 2 * lent
    assert found.commands - lent == size.runs + vmsas + 5 + size.secrets
    _, found = sequence(host, "destroy", vm=vm["vm"])
    assert (found.commands, found.updates) == (2, 0)


@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_snp(sev: Sevs, size: Size) -> None:
    """6.4: C = N + V + 4, U = N + V + 2; 6.6: 1 C and no U; 6.9: C = 3, U = 2 + V + N."""
    host = up(sev, snp=True)
    n, v = size.pages, size.vcpus
    vm, found = sequence(host, "launch", kind="snp", pages=n, vcpus=v)
    assert (found.commands, found.updates) == (n + v + 4, n + v + 2)
    assert found.names["SNP_LAUNCH_UPDATE"] == n + v
    _, found = sequence(host, "attest", vm=vm["vm"])
    assert (found.names, found.updates) == ({"SNP_GUEST_REQUEST": 1}, 0)
    _, found = sequence(host, "destroy", vm=vm["vm"])
    assert (found.commands, found.updates, found.smashes) == (3, 2 + v + n, 0)
    assert found.names == {"SNP_PAGE_RECLAIM": 2, "SNP_DECOMMISSION": 1}


@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conversions(sev: Sevs, size: Size) -> None:
    """6.5: p pages there cost p U, and back p U; the firmware is never asked."""
    host = up(sev, snp=True)
    vm, _ = sequence(host, "launch", kind="snp", pages=size.pages, vcpus=size.vcpus)
    p = size.changed
    for to in ("shared", "private"):
        _, found = sequence(host, "convert", vm=vm["vm"], pages=p, to=to)
        assert (found.commands, found.updates, found.smashes) == (0, p, 0), to
    _, found = sequence(host, "convert", vm=vm["vm"], pages=p, to="private")
    assert (found.commands, found.updates) == (0, 0), "a page that is what was asked for stays as it is"


@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("guests", [1, 3, 7])
def test_platform_and_asids(sev: Sevs, guests: int) -> None:
    """6.1: C = 7, U = 514 whatever follows; 4.4: one flush for all ASIDs that wait, when none is left."""
    host = sev()
    host.alloc(RMP_LEN, MIB, above=RMP_AT)
    host.cpus_up()
    _, found = sequence(host, "probe")
    assert (found.commands, found.updates) == (7, 514)
    lives = 7 + guests  # ASIDs of the lower range, and as many again
    host.ok("counts")
    for _ in range(lives):
        vm = host.ok("sequence", name="launch", kind="snp", pages=1)
        host.ok("sequence", name="destroy", vm=vm["vm"])
    found = cost(host)
    assert found.names["SNP_DF_FLUSH"] == 1
    assert found.commands == lives * ((1 + 1 + 4) + 3) + 1
