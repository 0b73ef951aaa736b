"""Architectures and kinds of guests by name, and what somebody may ask of a console's machine."""

from __future__ import annotations

import pytest

from protocol.arch import architectures, kinds, load

MIB = 1 << 20


def test_every_architecture_and_every_kind_has_a_slice() -> None:
    assert set(architectures()) < set(kinds())
    for name in kinds():
        assert load(name).comparison.profiles


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(KeyError, match="cca"):
        load("cca")


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"profile": "huge"}, "profile 'huge': allowed: "),
        (
            {"strategy": {"pages": "merged_l1", "colour": "red"}},
            "strategy.colour: allowed: handles, donation",
        ),
        ({"depth": 9}, "depth"),
        ({"hosts": 0}, "hosts"),
        ({"shares": 0}, "shares"),
        ({"memory_mib": 1 << 20}, "memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("arch", architectures())
def test_a_machine_that_cannot_be_is_refused_with_what_can(arch: str, asked: dict, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        load(arch).keyboard(**asked)


@pytest.mark.parametrize("arch", architectures())
def test_a_share_of_a_machine_is_one_of_a_machine_that_has_so_many(arch: str) -> None:
    comparison = load(arch).comparison
    alone, shared = (load(arch).keyboard(memory_mib=256, cpus=2, shares=shares) for shares in (1, 3))
    profile = comparison.profiles["small"]
    assert alone._rig.profile == profile
    assert shared._rig.profile == comparison.for_all(profile, 3, 256 * MIB, 2) != profile
