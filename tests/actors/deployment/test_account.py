"""The load's account: whoever is killed at any byte, every operation is ok, failed or unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.deployment.account import OUTCOMES, Account, read


def test_operations_end_in_one_of_three_ways(tmp_path: Path) -> None:
    account = Account(tmp_path / "load.journal")
    for outcome in OUTCOMES:
        account.end(account.begin("l0-0.l1-0", "create"), outcome)
    account.round("l0-0.l1-0")
    account.close()
    totals, begun = read(tmp_path / "load.journal")
    assert (totals.ok, totals.failed, totals.unknown, totals.rounds, begun) == (1, 1, 1, 1, {})


def test_what_was_under_way_at_its_death_is_unknown_in_its_next_life(tmp_path: Path) -> None:
    path = tmp_path / "load.journal"
    account = Account(path)
    account.end(account.begin("a", "create"), "ok")
    account.begin("a", "load")
    account.close()
    again = Account(path)
    assert again.inherited == 1
    assert again.numbers() == {"ok": 1, "failed": 0, "unknown": 1, "under_way": 0, "rounds": 0}
    again.close()


@given(st.lists(st.sampled_from(("begin", *OUTCOMES)), max_size=30), st.data())
def test_no_operation_is_lost_wherever_the_file_was_cut(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("account") / "load.journal"
    account, under_way = Account(path), []
    for act in acts:
        if act == "begin":
            under_way.append(account.begin("a", "touch"))
        elif under_way:
            account.end(under_way.pop(), act)
    account.close()
    content = path.read_bytes()
    head = content.index(b"\n") + 1
    cut = content[: data.draw(st.integers(head, len(content)))]
    path.write_bytes(cut)
    whole = cut[: cut.rindex(b"\n") + 1].decode().splitlines()
    begun = sum(line.startswith("B") for line in whole)
    ended = sum(line.startswith("E") for line in whole)
    totals, still_open = read(path)
    assert (totals.issued, len(still_open)) == (ended, begun - ended)
    Account(path).close()
    assert read(path)[0].issued == begun


def test_a_line_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "load.journal"
    path.write_text("E 7 ok\n")
    with pytest.raises(ValueError, match="not a line of an account"):
        read(path)
