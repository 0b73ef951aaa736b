"""Deny by default; the first rule that matches decides; a policy is known by the hash of what it says."""

from __future__ import annotations

import tomllib

import pytest

from protocol.hosting.machine import Spec
from protocol.hosting.messages import MESSAGES
from protocol.hosting.policy import EVERYTHING, BrokenPolicy, Policy, policy_from

WEB = """
[[rule]]
allow = false
call = ["destroy"]
source = [3]
tag = "precious"

[[rule]]
allow = true
call = "*"
source = [3]
vcpus = 2
memory_mib = 128
debug = false
"""


def a_policy(text: str) -> Policy:
    return policy_from(tomllib.loads(text), MESSAGES)


@pytest.fixture
def guarded(small_world):
    return small_world(service={"policy": a_policy(WEB)})


def test_nothing_matches_means_no(guarded, join):
    alice = join(guarded, 3)
    stranger = type(alice)(guarded, 4)
    error = stranger.refused("hello", versions=[1])
    assert (error["name"], error["who"], error["detail"]["rule"]) == ("NOT_PERMITTED", "admin", None)
    assert guarded.service.records()["requester"] == 1


def test_an_empty_policy_lets_nobody_in():
    assert a_policy("").decide("hello", 3) == (False, None)
    assert a_policy("").decide("list", 3) == (False, None)


@pytest.mark.parametrize(
    "too_much", [{"vcpus": 3}, {"memory_mib": 129}, {"debug": True}], ids=lambda spec: next(iter(spec))
)
def test_a_start_beyond_the_limits_of_its_rule_is_refused_and_holds_nothing(guarded, join, spec, too_much):
    alice = join(guarded, 3)
    before = guarded.service.records()
    error = alice.refused("start", spec=spec(**too_much))
    assert error["name"] == "NOT_PERMITTED"
    assert error["detail"]["policy"] == guarded.service.policy.digest
    assert guarded.service.records() == before
    assert guarded.machine.asked == []
    assert alice.start(vcpus=2, memory_mib=128)["state"] == "READY"


def test_a_tag_of_the_child_decides(guarded, join):
    alice = join(guarded, 3)
    precious = alice.start(labels={"precious": "yes"})["child"]
    plain = alice.start()["child"]
    error = alice.refused("destroy", child=precious)
    assert (error["name"], error["detail"]["rule"]) == ("NOT_PERMITTED", 0)
    assert alice.ask("destroy", child=plain)["state"] == "RELEASED"
    assert list(guarded.machine.guests) == [precious]


def test_a_refused_read_starts_and_stops_nothing(guarded, join, spec):
    alice = join(guarded, 3)
    alice.start()
    asked = len(guarded.machine.asked)
    stranger = type(alice)(guarded, 4)
    for kind, body in (("list", {}), ("describe", {"child": bytes(16)}), ("quota.get", {})):
        assert stranger.refused(kind, **body)["name"] == "STALE_EPOCH"
    assert len(guarded.machine.asked) == asked


def test_the_version_is_the_hash_of_what_it_says(guarded, join):
    alice = join(guarded, 3)
    assert alice.ask("hello", versions=[1])["policy"] == a_policy(WEB).digest
    assert a_policy("# a remark\n" + WEB).digest == a_policy(WEB).digest
    assert a_policy(WEB.replace("128", "129")).digest != a_policy(WEB).digest


def test_everything_that_is_wrong_is_told_at_once():
    broken = """
    colour = 1
    [[rule]]
    allow = "yes"
    call = ["strat"]
    source = [2]
    vmm = ["xen"]
    vcpus = -1
    tag = ""
    debug = "no"
    shade = 2
    """
    with pytest.raises(BrokenPolicy) as error:
        a_policy(broken)
    told = "\n".join(error.value.wrong)
    assert len(error.value.wrong) == 9
    for name in ("colour", "allow", "call", "source", "vmm", "vcpus", "tag", "debug", "shade"):
        assert name in told
    assert "start" in told


@pytest.mark.parametrize("rule", ['"yes"', '["yes"]'])
def test_rules_that_are_no_tables_are_told(rule):
    with pytest.raises(BrokenPolicy) as error:
        a_policy(f"rule = {rule}\ncolour = 1")
    assert error.value.wrong == ["colour: not known; allowed: rule", "rule: allowed: [[rule]] tables"]


def test_a_library_without_a_policy_allows_everything():
    assert EVERYTHING.decide("start", 3, {}, Spec(bytes(32), 1, 1)) == (True, 0)
