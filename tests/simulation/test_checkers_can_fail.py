"""Each checker of the soak is proved able to fail, on every architecture, by a mistake in what it guards.

What a checker, a mutation and a trial are says `checkers`. The mistakes stand in `mutations` (each in the
code of every architecture), `mutations_s390`, `_sev`, `_tdx`, `_pef` (its own ones), `mutations_hosting`. The
first test holds the table: a checker that no mutation makes fail on some architecture fails it, unless a
reason stands here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mutations_hosting
import mutations_pef
import mutations_s390
import mutations_sev
import mutations_tdx
from checkers import Beside, Mutation, Patch, Trial, checkers, violated
from mutations import everywhere

from protocol.arch import architectures, kinds

OWN = {
    "pef": mutations_pef.MUTATIONS,
    "s390": mutations_s390.MUTATIONS,
    "sev": mutations_sev.MUTATIONS,
    "tdx": mutations_tdx.MUTATIONS,
}
HOSTING = "pef"  # what the hosting service does is the same over every machine; this one is quick
MUTATIONS = [(arch, one) for arch in sorted(OWN) for one in (*OWN[arch], *everywhere(arch))]
MUTATIONS += [(HOSTING, one) for one in mutations_hosting.MUTATIONS]
TRIALS = sorted(
    {(one.kind or arch, one.trial) for arch, one in MUTATIONS if isinstance(one.trial, Trial)}, key=repr
)

NOT_THERE = {
    (
        "checks.reach",
        "pef",
    ): "nothing is guarded: `checks.memory` reads all that a load can",
}
_SERVICE = "the hosting service and its requesters know no architecture"
ANYWHERE = {  # checkers of what is the same on every architecture: one mutation on one of them is enough
    "hosted.live_out": _SERVICE,
    "hosted._settle": "a machine that goes on for ever is any machine",
    "l0guests._act": _SERVICE,
    "requester._strange": _SERVICE,
    "requester._listed/1": _SERVICE,
    "requester._listed/2": _SERVICE,
    "requester._listed/3": _SERVICE,
}
IN_FLEETS = "`test_fleet_checkers` has a mutation of leases, placing or the directory for it"
_HOSTED = "tests/protocol/soak/test_soak_hosted.py"
_REQUESTER = "tests/protocol/soak/test_soak_requester.py"
OPEN = {  # checkers that no mutation makes fail: why, or which test shows that they find what they look for
    "episode._live_out/2": "a life that ends otherwise is noticed by `episode.hop`, or ends in a reboot",
    "episode._ended": "a teardown that does not end is noticed by `episode._rest` first",
    "hosted.look": _HOSTED,
    "hosted.end/1": _HOSTED,
    "requester._started/1": _REQUESTER,
    "requester._started/2": _REQUESTER,
    "requester._refused": _REQUESTER,
}

LEAKS = {  # what a book may have that the one below has not
    "pef": ("svms", "slots", "units", "open_reflections", "svm", "slot", "lpid"),
    "s390": ("configs", "cpus", "pages", "pins", "donated", "quarantined"),
    "sev": ("page", "gctx", "asid", "sev_guest"),
    "tdx": ("page", "owner", "td", "hkid", "quarantine"),
}


def test_every_checker_can_fail_on_every_architecture() -> None:
    made = {(one.checker, arch) for arch, one in MUTATIONS}
    noticed = {checker for checker, _ in made}
    missing = []
    for checker in checkers():
        if checker.startswith(("fleet.", "fleet_tenant.")) or checker in OPEN:
            continue
        for arch in (HOSTING,) if checker in ANYWHERE else architectures():
            enough = checker in noticed if checker in ANYWHERE else (checker, arch) in made
            if not enough and (checker, arch) not in NOT_THERE:
                missing.append(f"{checker} on {arch}")
    assert not missing
    assert not made & NOT_THERE.keys()
    assert noticed | OPEN.keys() | ANYWHERE.keys() <= set(checkers())


@pytest.mark.parametrize("arch", sorted(LEAKS))
def test_every_kind_of_leak_is_made_by_a_mutation(arch: str) -> None:
    made = {one.says.strip("'") for one in OWN[arch] if one.checker == "checks.books"}
    assert made == set(LEAKS[arch])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "trial"), TRIALS, ids=[f"{arch}-{number}" for number, (arch, _) in enumerate(TRIALS)]
)
def test_without_a_mutation_the_same_run_holds(arch: str, trial: Trial) -> None:
    assert violated(arch, trial) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "mutation"), MUTATIONS, ids=[f"{arch}-{one.name}" for arch, one in MUTATIONS]
)
def test_a_mutation_is_found(arch: str, mutation: Mutation, monkeypatch: Patch) -> None:
    mutation.mistake(monkeypatch)
    checker, said = violated(mutation.kind or arch, mutation.trial)
    assert checker == mutation.checker, said or "nobody noticed"
    assert mutation.says in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_a_life_is_the_same_beside_a_hostile_host(kind: str) -> None:
    assert violated(kind, Beside()) == ("", "")
