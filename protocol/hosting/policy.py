"""Who may ask what: rules in order, the first that matches decides, and nothing matches means no.

A rule names calls, sources (context ids), a tag (a label that the child has, or is to have) and, for starts,
limits. A policy is versioned by the hash of what it says, which stands in `hello` and in evidence. Read from
TOML:

    [[rule]]
    allow = true
    call = ["start", "stop"]     # or "*"
    source = [3, 4]              # or "*"
    tag = "web"                  # or left out: any child
    vmm = ["emulated"]           # the rest is about starts; left out: not bounded
    vcpus = 4
    memory_mib = 4096
    linger_s = 0
    debug = false
    signer = ["9f86.."]          # SHA-256 of public keys, one of which has to have signed the image

`hello` and `explain` of a source that any rule allows something are allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.machine import Spec

BOUNDS = ("vcpus", "memory_mib", "linger_s")
FIELDS = ("allow", "call", "source", "tag", "vmm", "debug", "signer", *BOUNDS)
ALWAYS = ("hello", "explain")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. None: any."""

    allow: bool
    calls: frozenset[str] | None
    sources: frozenset[int] | None
    tag: str | None = None
    vmms: frozenset[str] | None = None
    debug: bool | None = None
    bounds: tuple[tuple[str, int], ...] = ()
    signers: frozenset[str] | None = None

    def concerns(self, call: str, source: int, labels: Mapping[str, str]) -> bool:
        return (
            (self.calls is None or call in self.calls)
            and (self.sources is None or source in self.sources)
            and (self.tag is None or self.tag in labels)
        )

    def fits(self, spec: Spec | None) -> bool:
        """Whether a start stays within the rule; true of anything else."""
        if spec is None:
            return True
        return (
            (self.vmms is None or spec.vmm in self.vmms)
            and (self.debug is None or self.debug or not spec.debug)
            and all(getattr(spec, name) <= bound for name, bound in self.bounds)
        )


class BrokenPolicy(ValueError):
    """What is wrong with a policy, all at once, each with what is allowed."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__("\n".join(wrong))
        self.wrong = wrong


class Policy:
    """Rules in order. `digest` is its version."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        said = [[each.allow, _sorted(each.calls), _sorted(each.sources), each.tag, _sorted(each.vmms),
                 each.debug, list(each.bounds), _sorted(each.signers)] for each in self.rules]  # fmt: skip
        self.digest = hashlib.sha256(json.dumps(said).encode()).digest()

    def decide(
        self, call: str, source: int, labels: Mapping[str, str] | None = None, spec: Spec | None = None
    ) -> tuple[bool, int | None]:
        """Return whether that is allowed, and by which rule (from 0); None where no rule matches."""
        if call in ALWAYS:
            known = any(r.allow and (r.sources is None or source in r.sources) for r in self.rules)
            return known, None
        for number, rule in enumerate(self.rules):
            if rule.concerns(call, source, labels or {}):
                if rule.allow and not rule.fits(spec):
                    continue
                return rule.allow, number
        return False, None

    def check(
        self, call: str, source: int, labels: Mapping[str, str] | None = None, spec: Spec | None = None
    ) -> frozenset[str] | None:
        """Raise Refusal (NOT_PERMITTED) unless that is allowed; return who has to have signed, if anybody."""
        allowed, rule = self.decide(call, source, labels, spec)
        if not allowed:
            why = "no rule allows it" if rule is None else f"rule {rule} forbids it"
            detail = {"policy": self.digest, "rule": rule}
            raise Refusal(Code.NOT_PERMITTED, f"{call}: {why}", detail=detail)
        return None if rule is None or spec is None else self.rules[rule].signers


def policy_from(tables: Mapping[str, Any], calls: Iterable[str]) -> Policy:
    """Return the policy that parsed TOML says. Raises BrokenPolicy."""
    wrong = [f"{name}: not known; allowed: rule" for name in tables if name != "rule"]
    rows = tables.get("rule", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BrokenPolicy([*wrong, "rule: allowed: [[rule]] tables"])
    rules = [_rule(row, f"rule {number}", frozenset(calls), wrong) for number, row in enumerate(rows)]
    if wrong:
        raise BrokenPolicy(wrong)
    return Policy(rules)


def _rule(row: Mapping[str, Any], where: str, known: frozenset[str], wrong: list[str]) -> Rule:
    allowed = ", ".join(FIELDS)
    wrong += [f"{where}.{name}: not known; allowed: {allowed}" for name in row if name not in FIELDS]

    def say(name: str, allowed: str) -> None:
        wrong.append(f"{where}.{name}: allowed: {allowed}")

    def listed(name: str, good: Callable[[Any], bool], allowed: str, default: Any = None) -> Any:
        value = row.get(name, default)
        if value == "*":
            return None
        if not isinstance(value, list) or not value or not all(good(v) for v in value):
            say(name, allowed)
            return None
        return frozenset(value)

    allow, tag, debug = row.get("allow"), row.get("tag"), row.get("debug")
    if type(allow) is not bool:
        say("allow", "true or false")
    if tag is not None and (type(tag) is not str or not tag):
        say("tag", "the name of a label")
    if debug is not None and type(debug) is not bool:
        say("debug", "true or false")
    bounds = [(name, row[name]) for name in BOUNDS if name in row]
    for name, bound in bounds:
        if type(bound) is not int or bound < 0:
            say(name, "a number from 0 up")
    return Rule(
        allow is True,
        listed(
            "call", lambda v: type(v) is str and v in known, f'"*", or a list of {", ".join(sorted(known))}'
        ),
        listed("source", _is_cid, '"*", or a list of context ids from 3 up'),
        tag,
        listed("vmm", lambda v: v in ("emulated", "qemu"), '"*", or a list of emulated, qemu', "*"),
        debug,
        tuple(bounds),
        listed("signer", _is_digest, "a list of SHA-256 digests of public keys, 64 digits each", "*"),
    )


def _is_cid(value: Any) -> bool:
    return type(value) is int and 3 <= value < 1 << 32


def _is_digest(value: Any) -> bool:
    return type(value) is str and bool(re.fullmatch("[0-9a-f]{64}", value))


def _sorted(values: frozenset[Any] | None) -> list[Any] | None:
    return None if values is None else sorted(values)


EVERYTHING = Policy([Rule(True, None, None)])  # of a library that has no policy of its own
