"""What is told in every order: of hosts (`explorer`), and of hosting (`hosting_explorer`). A plain module."""

from __future__ import annotations

from dataclasses import dataclass, replace

from explorer import Case
from hosting_explorer import ADOPT, GRACE_MS, HELLO, LEASE_MS, RENEW, START, Message
from hosting_explorer import Story as Hosting

from protocol.arch import load
from protocol.plan import operations as op
from protocol.plan.operations import Pages

CREATES, LOADS, STARTS, DESTROYS = op.Create(0, 16, 1), op.Load(0), op.Start(0), op.Destroy(0)
TOUCHES = op.Touch(0, 0, Pages(1100, 4, 1))
ENDS = ("reboot", "kill")


@dataclass(frozen=True)
class Story:
    """A host is cut in the middle of `doing`; its sibling does `beside`. `stride`: of a sample of cuts.

    A guest that is just being destroyed is where a reboot meets a teardown that is under way already.
    """

    arch: str
    doing: op.Operation
    beside: op.Operation
    stride: int = 1

    def __str__(self) -> str:
        return f"{self.arch} {self.doing.name} beside {self.beside.name}"

    def make(self) -> Case:
        """s390 tears down asynchronously."""
        strategy = {"teardown": "async"} if self.arch == "s390" else {}
        return Case(load(self.arch), strategy, self.doing, self.beside)


STORIES = (
    Story("pef", CREATES, TOUCHES),
    Story("pef", LOADS, STARTS, 8),
    Story("s390", CREATES, TOUCHES),
    Story("sev", CREATES, TOUCHES),
    Story("tdx", CREATES, STARTS, 16),
    Story("pef", DESTROYS, TOUCHES),
    Story("s390", DESTROYS, TOUCHES, 16),
    Story("sev", DESTROYS, TOUCHES, 4),
    Story("snp", DESTROYS, STARTS, 16),
    Story("tdx", DESTROYS, STARTS, 48),
)

AGAIN = Message(1, "start", START.body, START.key)
LATE = Message(1, "destroy", child=True)
SHORT = Hosting((START, HELLO, ADOPT), (LEASE_MS,))
HOSTING = {
    "adopted, and a death": SHORT,
    "adopted too late": replace(SHORT, times=(LEASE_MS, GRACE_MS), crashes=0),
    "twice, and adopted": Hosting((START, AGAIN, HELLO, ADOPT), (LEASE_MS,), crashes=0),
    "a message lost": Hosting((START, RENEW, HELLO, ADOPT), (LEASE_MS,), crashes=0, losses=1),
    "a late destroy, and a death": Hosting((START, LATE, HELLO), (LEASE_MS,)),
    "two deaths": Hosting((START, HELLO), (LEASE_MS,), crashes=2),
}
