"""A requester of the soak, in a process of its own: `soak_requester.py ROOT SOCKET SEED STARTS GUESTS`.

It starts guests, asks for some of them again with the same key, stops and destroys them; it is killed itself
at any moment, and so is the service. On its standard output: one line for each start that was answered. What
it finds wrong ends it with a message.
"""

from __future__ import annotations

import random
import sys

sys.path.insert(0, sys.argv[1])

from nestbed.client import ERRORS, Budget, Child, Hosting

IMAGES = [b"#!nestbed\nready\n", b"#!nestbed\nprint up\nready\nsleep 50\nexit 3\n"]
STALE, EXPIRED = ERRORS["STALE_EPOCH"], ERRORS["LEASE_EXPIRED"]
AGAIN = (ERRORS["BOOT_DIED"], EXPIRED)
GONE = (ERRORS["BAD_STATE"], ERRORS["NOT_FOUND"])


class Requester:
    """One life of a requester."""

    def __init__(self, socket: str, seed: int, most: int) -> None:
        self.rng = random.Random(seed)
        self.most = most  # guests at once
        budget = Budget(tries=2_000, seconds=120, first_s=0.01, longest_s=0.1)
        self.host = Hosting(f"unix:{socket}", budget=budget, timeout_s=5, rng=self.rng)
        self.host.hello()
        self.known: dict[bytes, tuple[int, Child]] = {}

    def run(self, starts: int) -> None:
        for _ in range(starts):
            self.start()
            for _ in range(self.rng.randrange(3)):
                self.something()
            if len(self.known) > self.most:
                key = next(iter(self.known))
                self.destroy(self.known.pop(key)[1])
        self.end()

    def start(self) -> None:
        image, key = self.rng.randrange(len(IMAGES)), self.host.key()
        child = self.asked(image, key)
        if child is not None:
            self.known[key] = (image, child)
            sys.stdout.write(f"{child.id.hex()}\n")
            sys.stdout.flush()

    def asked(self, image: int, key: bytes) -> Child | None:
        """Start with that key; None where the boot is over and a new one has begun."""
        ready = self.rng.choice(["entered", "notified"])
        known = self.known.get(key)
        if known is not None:
            ready = "entered" if known[1].charged["vcpus"] == 1 else "notified"
        spec = {"vcpus": 1 if ready == "entered" else 2, "memory_mib": 1, "ready": ready}
        while True:
            try:
                self.host.renew()
                return self.host.start(IMAGES[image], key=key, **spec)
            except AGAIN:
                continue  # killed while it booted: rolled back, and the key is free; or too slow to renew
            except STALE:
                self.host.hello()
                self.known.clear()
                return None

    def something(self) -> None:
        if not self.known:
            return
        key = self.rng.choice(list(self.known))
        image, child = self.known[key]
        what = self.rng.choice(["again", "again", "stop", "destroy", "describe"])
        try:
            if what == "again":
                again = self.asked(image, key)
                if again is not None and again.id != child.id:
                    sys.exit(f"the key {key.hex()} got {again.id.hex()}, it had got {child.id.hex()}")
            elif what == "destroy":
                self.destroy(child)
                self.host.acknowledge(child.id)
                del self.known[key]
            elif what == "stop":
                self.host.stop(child.id, "kill")
            else:
                self.host.describe(child.id)
        except STALE:
            self.host.hello()
            self.known.clear()
        except GONE:
            pass
        except EXPIRED:
            self.host.renew()

    def destroy(self, child: Child) -> None:
        """Destroy it, also where the lease runs out meanwhile: a busy machine may be that slow."""
        while True:
            try:
                self.host.destroy(child.id)
            except EXPIRED:
                self.host.renew()
            else:
                return

    def end(self) -> None:
        """Destroy all that is left."""
        for _, child in list(self.known.values()):
            try:
                self.destroy(child)
            except STALE:
                self.host.hello()


if __name__ == "__main__":
    Requester(sys.argv[2], int(sys.argv[3]), int(sys.argv[5])).run(int(sys.argv[4]))
