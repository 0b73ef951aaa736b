"""Architectures and kinds of guests by name, and what somebody may ask of a console's machine."""

from __future__ import annotations

import pytest

from protocol.arch import architectures, kinds, load


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
