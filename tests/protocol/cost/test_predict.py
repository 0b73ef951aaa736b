"""Exit profiles in three forms, and what a VM with one would lose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.costs import shipped
from protocol.cost.exits import MOST_REASONS, BadProfile, Profile, read
from protocol.cost.formulas import GIB, Formulas
from protocol.cost.predict import predicted

PERF = """

Analyze events for all VMs, all VCPUs:

             VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time

                 HLT      10217    53.97%    99.92%      0.62us 1018361.31us   2384.41us ( +-  10.46% )
           MSR_WRITE       5637    29.78%     0.05%      0.45us     92.04us      1.98us ( +-   2.06% )
  EXTERNAL_INTERRUPT       3076    16.25%     0.03%      0.61us   1130.31us      2.52us ( +-  21.05% )

Total Samples:18930, Total events handled time:24380903.17us.
"""
KVM_STAT = """timestamp,kvm_entry,kvm_exit(HLT),kvm_exit(EXTERNAL_INTERRUPT),kvm_exit(IO_INSTRUCTION)
2026-03-01 12:00:00,300,100,40,60
2026-03-01 12:00:02,500,200,40,160
"""


def test_perf_says_how_many_and_the_user_for_how_long() -> None:
    profile = read(PERF, seconds=10)
    assert profile.rates == {"HLT": 1021.7, "MSR_WRITE": 563.7, "EXTERNAL_INTERRUPT": 307.6}
    assert profile.own_share == pytest.approx(3076 / 18930)
    with pytest.raises(BadProfile, match="give the seconds"):
        read(PERF)


def test_kvm_stat_says_both() -> None:
    profile = read(KVM_STAT)
    assert profile.rates == {"HLT": 75.0, "EXTERNAL_INTERRUPT": 20.0, "IO_INSTRUCTION": 55.0}
    assert read("timestamp,kvm_exit,kvm_entry\n2026-03-01 12:00:00,700,700\n").rates == {"all": 700.0}


def test_a_plain_table_is_reasons_and_rates() -> None:
    profile = read("# ours\nhlt 100\nexternal interrupt, 50\n")
    assert (profile.total, profile.own_share) == (150.0, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing in it"),
        ("hlt\n", "line 1: 'hlt'"),
        (",\n", "line 1: ','"),
        ("hlt -5\n", "allowed: REASON"),
        ("timestamp,a\nyesterday,5\n", "line 2"),
        ("timestamp,pf_taken\n2026-03-01 12:00:00,5\n", "no column of exits"),
        ("timestamp,kvm_exit\n", "no line below"),
        ("VM-EXIT Samples\n", "give the seconds"),
    ],
)
def test_what_is_no_profile_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadProfile, match=said):
        read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  VM-EXIT  Samples  Samples%\nTotal Samples:0\n", "no row of exits below its heading"),
        (
            "  VM-EXIT  Samples\n  HLT  1000000001  99.00%  50.00%\n",
            "'  HLT  1000000001 .* more than 1e.09 exits in a second",
        ),
        (f"  VM-EXIT  Samples\n  HLT  {'9' * 400}  99.00%  50.00%\n", "more than 1e.09 exits in a second"),
        ("timestamp,kvm_exit\n2026-03-01 12:00:00,5,6\n", "line 2: .* allowed: a time and 1 numbers"),
        ("".join(f"reason-{n} 1\n" for n in range(MOST_REASONS + 1)), f"more than {MOST_REASONS} reasons"),
    ],
    ids=["perf", "perf_fast", "perf_infinite", "kvm_stat", "table"],
)
def test_a_profile_that_holds_nothing_or_too_much_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadProfile, match=said):
        read(text, seconds=1.0)


@given(st.text(max_size=300))
def test_any_text_is_a_profile_or_refused(text: str) -> None:
    try:
        profile = read(text, seconds=1.0)
    except BadProfile:
        return
    assert profile.total >= 0
    assert 0 <= profile.own_share <= 1


@pytest.mark.parametrize("group", ["s390", "snp", "tdx", "pef"])
def test_a_prediction_is_the_formula_at_its_rate(group: str) -> None:
    """10,000 exits a second on each of two VCPUs, none of them the machine's own: the golden table."""
    costs = shipped()
    found = predicted(costs, group, Profile({"hlt": 20_000}, "table"), GIB, vcpus=2)
    model = Formulas(costs, group)
    assert found.lost["nested"][0] == pytest.approx(model.lost("nested", 10_000))
    assert found.boot_s["hosted"]["two_fault"][0] == pytest.approx(
        model.boot("hosted", "two_fault", GIB) / 1e9
    )
    for value, low, high in found.lost.values():
        assert low <= value <= high
    assert found.matters == "exit_nested"
    assert found.moves[0] < found.lost["nested"][0] < found.moves[1]
    told = found.as_dict()
    assert told["lost"]["nested"] == list(found.lost["nested"])
    assert told["boot_s"]["hosted"]["merged"] == list(found.boot_s["hosted"]["merged"])
    assert told["matters_most"]["cost"] == "exit_nested"


def test_what_the_machine_answers_alone_costs_no_more_nested() -> None:
    found = predicted(shipped(), "tdx", Profile({"EXTERNAL_INTERRUPT": 5000}, "table"), GIB, 1)
    assert found.lost["nested"] == found.lost["hosted"]
