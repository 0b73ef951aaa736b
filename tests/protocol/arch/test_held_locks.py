"""Who holds what, in words, while a guest host's operations are under way: what `nestbed why` shows."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.arch import kinds, load
from protocol.arch.sev.host.asids import FlushLock
from protocol.crossing import Thread
from protocol.effects import Idle, Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

MIB = 1 << 20
LIFE = (
    op.BootHost(),
    op.Create(0, 16, 1),
    op.Load(0),
    op.Start(0),
    op.Exits(0, 0, "wait", "kernel", 1),
    op.Destroy(0),
)
KERNEL = {"l0: the firmware's mailbox", "l0: the firmware's mailbox, 1 wait", "l0: ASIDs, 1 leave one"}
LEGACY = KERNEL | {"l1.0: mailbox", "l1.1: mailbox"}
SEEN = {  # how what is to be seen begins, up to its numbers
    "s390": {"l1.0: config 0x", "l1.1: config 0x", "l1.0: cpu 0x", "l1.0: uv 0x"},
    "sev": LEGACY,
    "sev-es": LEGACY,
    "snp": LEGACY | {"l1.0: RMP entry of page 0x", "l1.1: RMP entry of page 0x", "l1.0: VMSA 0x"},
    "tdx": {"l1.0: kot", "l1.0: ket 0x", "l1.0: wbt 0x", "l1.0: page 0x", "l1.1: page 0x"},
    "pef": {"l1.0: LPID", "l1.1: LPID"},
}


class Lives:
    """Two guest hosts, side by side, message by message."""

    def __init__(self, kind: str) -> None:
        found: Any = load(kind)
        comparison = found.comparison
        memory = max(128, found.profiles["small"].host_least_mib()[0] + 8) * MIB
        self.rig = comparison.compose(Sizes("small", 1, 2, memory, 2, 7), Ledger())
        image = comparison.image(7, 2, None)
        self.hosts = [
            comparison.software(self.rig, seat, Random(seat), pages="two_fault", bulk=False, image=image)
            for seat in (0, 1)
        ]

    def seen(self) -> set[str]:
        """All that was held after any message."""
        found: set[str] = set()
        for act in LIFE:
            threads = [
                Thread(f"host {seat}", host.perform(act), self.rig.below(seat))
                for seat, host in enumerate(self.hosts)
            ]
            while live := [thread for thread in threads if not thread.done]:
                for thread in live:
                    thread.hop()
                    found |= {f"{holder}: {lock}" for holder, lock in self.rig.locks()}
            assert not any(thread.error for thread in threads)
        return found


@pytest.mark.parametrize("kind", kinds())
def test_what_is_held_while_calls_are_under_way_is_named_and_nothing_is_left(kind: str) -> None:
    lives = Lives(kind)
    seen = lives.seen()
    missing = {start for start in SEEN[kind] if not any(each.startswith(start) for each in seen)}
    assert not missing, sorted(seen)
    assert list(lives.rig.locks()) == []


def test_an_architecture_without_locks_says_why() -> None:
    without = {kind for kind in kinds() if getattr(load(kind).comparison, "no_locks", "")}
    assert without == {"pef"}


def test_a_kernel_on_amd_says_that_it_flushes_asids() -> None:
    lock = FlushLock()
    driver: Any = Flushing()
    step = lock.flush(None, driver)
    next(step)
    assert list(lock.held()) == ["ASIDs, to flush them"]
    for _ in step:
        pass
    assert list(lock.held()) == []


class Flushing:
    """A driver that waits while it writes caches back."""

    snp = True

    def wbinvd_everywhere(self) -> Step[None]:
        yield Idle()

    def command(self, name: str) -> Step[None]:
        assert name == "SNP_DF_FLUSH"
        yield from ()
