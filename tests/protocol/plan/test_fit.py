"""Values that do not go together are found all at once, in the words of whoever knows why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest

from protocol.arch import architectures, load
from protocol.plan.fit import Limit, Mistake, mistakes
from protocol.plan.scenario import ExitKind, Guests, Run, Scenario, Strategy, leaves, parse_threshold


@dataclass(frozen=True)
class Toy:
    """An architecture that the core has never heard of."""

    name: str = "toy"
    guests: int = 4
    least: int = 10
    each: int = 20
    no: str = ""

    def limits(self) -> Iterable[Limit]:
        return (
            Limit("guest.per_l1", self.guests, "toys of a host"),
            Limit("guest.vcpus", 2, "hands of a toy"),
        )

    def host_least_mib(self) -> tuple[int, str]:
        return self.least, "the toybox itself"

    def host_needs_mib(self, guests: int, guest_mib: int, vcpus: int) -> int:
        return guests * (guest_mib + self.each)

    def refuses(self, path: str, value: str) -> str:
        return "toys cannot do that" if self.no == f"{path}={value}" else ""


def found(scenario: Scenario, *profiles: Toy) -> list[Mistake]:
    return mistakes(scenario, {f"arch{number}": profile for number, profile in enumerate(profiles)})


def with_(scenario: Scenario | None = None, **settings: object) -> Scenario:
    """A scenario with settings by their dotted paths, `__` for the dots."""
    scenario = scenario or Scenario()
    for path, value in settings.items():
        section, _, name = path.partition("__")
        if name:
            inner = replace(getattr(scenario, section), **{name: value})
            scenario = replace(scenario, **{section: inner})
        else:
            scenario = replace(scenario, **{section: value})
    return scenario


def test_the_default_scenario_fits_where_it_is_allowed() -> None:
    assert found(Scenario(), Toy()) == []


@pytest.mark.parametrize("arch", architectures())
def test_every_profile_of_every_architecture_answers(arch: str) -> None:
    settings = {path for path, _, _ in leaves(Scenario())}
    for profile in load(arch).profiles.values():
        least, why = profile.host_least_mib()
        assert least >= 0
        assert why
        assert {limit.path for limit in profile.limits()} <= settings
        assert profile.host_needs_mib(2, 64, 2) >= profile.host_needs_mib(1, 64, 2) >= 64
        assert profile.host_needs_mib(1, 64, 4) >= profile.host_needs_mib(1, 64, 1)
        mistakes(Scenario(), {arch: profile})


def test_the_limits_of_a_profile_are_told_in_its_own_words() -> None:
    one, other = found(with_(guest__per_l1=5, guest__vcpus=3), Toy())
    assert (one.path, one.value) == ("guest.per_l1", 5)
    assert one.allowed == "at most 4: toys of a host in profile toy"
    assert other.allowed == "at most 2: hands of a toy in profile toy"


def test_a_host_that_cannot_come_up_is_told_why_and_nothing_else_of_its_memory() -> None:
    (mistake,) = found(with_(l1__memory_mib=9), Toy())
    assert mistake.path == "l1.memory_mib"
    assert mistake.allowed == "at least 10 MiB in profile toy: the toybox itself"


def test_what_a_host_donates_counts() -> None:
    (mistake,) = found(with_(l1__memory_mib=55), Toy())
    assert mistake.value == "2 * 8 MiB"
    assert mistake.allowed == "what fits l1.memory_mib = 55; with what the host donates this needs 56 MiB"
    assert found(with_(l1__memory_mib=56), Toy()) == []


def test_a_strategy_that_an_architecture_cannot_have_is_refused_with_its_reason() -> None:
    scenario = replace(Scenario(), strategy=Strategy(handles="mapped"))
    (mistake,) = found(scenario, Toy(no="strategy.handles=mapped"))
    assert (mistake.path, mistake.value) == ("strategy.handles", "mapped")
    assert mistake.allowed == "one of: passed"
    assert mistake.hint == "toys cannot do that"


def test_two_architectures_that_find_the_same_say_it_once() -> None:
    assert len(found(with_(guest__per_l1=5), Toy(), Toy())) == 1
    assert len(found(with_(guest__per_l1=5), Toy(), Toy(name="other"))) == 2


def test_lingering_guests_are_refused_with_the_reason() -> None:
    (mistake,) = found(replace(Scenario(), strategy=Strategy(owner_loss="linger")))
    assert mistake.allowed == "stop"
    assert "outlive their owner" in mistake.hint


# -- rules of no architecture ------------------------------------------------------------------------------


RULES = [
    (with_(guest__image_pages=2033), "guest.image_pages", "at most 2032 pages"),
    (
        with_(guest__image_pages=262145, guest__memory_mib=2048, fidelity="bulk"),
        "guest.image_pages",
        "at most 262144 pages",
    ),
    (with_(guest__touch_pages=2000), "guest.touch_pages + guest.share_pages", "at most 1968 pages"),
    (with_(run__swap_pages=193), "run.swap_pages", "at most 192"),
    (with_(run__level_swaps=385), "run.level_swaps", "at most 384"),
    (with_(guest__share_pages=0), "run.page_changes", "0 while guest.share_pages = 0"),
    (with_(run__deaths=3), "run.deaths", "at most l1.count = 2"),
    (
        with_(paths=("mixed",), l1__count=1, guest__per_l1=1, run__deaths=0),
        "paths",
        "at least two guests",
    ),
    (
        with_(run__resets=999, run__reboots=999, guest__touch_pages=1900),
        "fidelity",
        "bulk for more than 5000000",
    ),
    (with_(run__dumps=999, guest__touch_pages=1900), "fidelity", "bulk for more than 5000000"),
    (with_(l1__count=64, l1__memory_mib=65537), "l1.count * l1.memory_mib", "at most 4194304 MiB"),
]


@pytest.mark.parametrize(("scenario", "path", "allowed"), RULES, ids=[rule[1] for rule in RULES])
def test_each_rule_says_what_is_allowed(scenario: Scenario, path: str, allowed: str) -> None:
    (mistake,) = found(scenario)
    assert mistake.path == path
    assert mistake.allowed.startswith(allowed)


def test_several_mistakes_are_found_at_once() -> None:
    run = replace(Run(), swap_pages=9999, deaths=9)
    wrong = replace(Scenario(), run=run, guest=Guests(per_l1=9, share_pages=0))
    paths = {mistake.path for mistake in found(wrong, Toy())}
    assert {"run.swap_pages", "run.deaths", "guest.per_l1", "run.page_changes"} <= paths


@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        ("counts.nested", "counts.PATH.NAME"),
        ("total.nested.exits", "counts.PATH.NAME"),
        ("counts.mixed.exits", "a path that runs: direct, nested, hosted"),
        ("phases.nested.lunch.exits", "a phase: host_setup"),
        ("load.nested.p42", "a figure: "),
        ("counts.nested.sandwiches", "a count: exits"),
    ],
)
def test_a_threshold_on_what_is_not_counted_is_refused(what: str, allowed: str) -> None:
    (mistake,) = found(with_(thresholds=(parse_threshold(what, "< 3"),)))
    assert mistake.path == f'thresholds."{what}"'
    assert mistake.allowed.startswith(allowed)


@pytest.mark.parametrize("phase", ["refill", "owner_reboot", "level_swap"])
def test_every_phase_of_a_run_may_have_a_threshold(phase: str) -> None:
    assert found(with_(thresholds=(parse_threshold(f"phases.nested.{phase}.exits", ">= 0"),))) == []


def test_more_exits_than_a_run_can_count_are_refused() -> None:
    exits = replace(Run().exits, wait=ExitKind(10_000_000, "kernel"))
    scenario = with_(guest__per_l1=4, l1__count=16, run__exits=exits)
    wrong = [mistake for mistake in found(scenario, Toy()) if mistake.path == "run.exits"]
    assert [mistake.value for mistake in wrong] == [64 * scenario.run.exits.total()]
    assert "in all guests of a path together" in wrong[0].allowed
