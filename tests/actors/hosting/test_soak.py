"""Many requesters start guests while they, guests and the service are killed: nothing is lost or left.

The seed decides who is killed, in which order, and after how many answered starts; where each of them is by
then is up to the machine. So there are as many kills on a busy machine as on an idle one. `./x endurance` has
ten thousand starts of a hundred requesters (NESTBED_SOAK=10000x100), the slow half a thousand of ten.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.progress import Progress

STARTS, REQUESTERS = (int(part) for part in os.environ.get("NESTBED_SOAK", "1000x10").split("x"))
SEED = int(os.environ.get("NESTBED_SOAK_SEED", "7"))
PROGRAM = Path(__file__).with_name("soak_requester.py")
ROOT = Path(__file__).resolve().parents[3]
LONGEST_S = 1_800
KILL_EVERY = 10  # answered starts, on average
LOOK_S = 0.02
LINE_BYTES = 33  # of a requester for each start that was answered
GUESTS = max(2, min(8, 200 // REQUESTERS))  # of one requester at once


class Crowd:
    """The requesters, each a process that is replaced when it is killed, until it has had its starts."""

    def __init__(self, service, rng):
        self.service, self.rng = service, rng
        self.left = dict.fromkeys(range(3, 3 + REQUESTERS), STARTS // REQUESTERS)
        self.running = {}
        self.answered = 0
        self.lives = 0

    def go_on(self):
        """Start whoever does not run and has starts left; take note of who has ended."""
        for cid, (process, log, asked) in list(self.running.items()):
            if process.poll() is not None:
                self.ended(cid, process, log, asked)
        for cid, left in self.left.items():
            if left > 0 and cid not in self.running:
                self.lives += 1
                log = self.service.directory.parent / f"{cid}.{self.lives}"
                socket = f"{self.service.directory}/{cid}.vsock_5200"
                command = [sys.executable, "-P", str(PROGRAM), str(ROOT), socket, str(SEED + self.lives)]
                with log.open("w") as out:
                    process = subprocess.Popen(
                        [*command, str(left), str(GUESTS)], stdout=out, stderr=subprocess.PIPE
                    )
                self.running[cid] = (process, log, left)

    def ended(self, cid, process, log, asked):
        _, complaint = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), complaint.decode()
        done = len(log.read_text().splitlines())
        self.answered += done
        self.left[cid] = 0 if process.returncode == 0 else max(0, asked - done)
        del self.running[cid]

    def so_far(self):
        """How many starts were answered, of those that run still among them."""
        running = sum(log.stat().st_size // LINE_BYTES for _, log, _ in self.running.values())
        return self.answered + running

    def kill_one(self):
        """A requester crashes; its machine tells the service."""
        if self.running:
            cid = self.rng.choice(list(self.running))
            self.running[cid][0].kill()
            self.running[cid][0].wait()
            self.service.order(f"reboot {cid}")

    def end(self):
        for process, _, _ in self.running.values():
            process.kill()
            process.wait()
            process.stderr.close()


@pytest.mark.slow
def test_starts_while_everybody_is_killed(service_process):
    arguments = [word for n in range(REQUESTERS) for word in ("--requester", str(3 + n))]
    service = service_process("--admin", *arguments)
    rng = random.Random(SEED)
    crowd = Crowd(service, rng)
    killed = {"service": 0, "requester": 0, "guest": 0}
    end = time.monotonic() + LONGEST_S
    due, said = 0.0, Progress("hosting", STARTS, "starts answered")
    try:
        while True:
            crowd.go_on()
            if not crowd.running:
                break
            assert time.monotonic() < end, "it takes too long"
            said(min(crowd.so_far(), STARTS - 1), f"killed: {killed}")
            if crowd.so_far() < due:
                pause(LOOK_S)
                continue
            due = crowd.so_far() + rng.uniform(0.5, 1.5) * KILL_EVERY
            who = rng.choices(["guest", "requester", "service"], [6, 2, 1])[0]
            killed[who] += 1
            if who == "guest":
                guests = list(service.guests().values())
                if guests:
                    kill(rng.choice(guests))
            elif who == "requester":
                crowd.kill_one()
            else:
                service.kill()
                service.start()
    finally:
        crowd.end()
    assert crowd.answered >= STARTS * 0.9, (
        "a start that was answered and not yet written down is counted twice"
    )
    assert min(killed.values()) >= 1, killed
    for n in range(REQUESTERS):
        service.order(f"reboot {3 + n}")
    while service.order("statistics")["children"]:  # the last start of one who was killed is still under way
        assert time.monotonic() < end, "it takes too long"
        pause(LOOK_S)
    assert service.order("audit") == {"leaks": []}
    assert service.guests() == {}
    assert processes_of(service.directory / "guests") == [], "nor is there one that no file knows of"
    assert list((service.directory / "guests").iterdir()) == []
    service.kill()
    service.start()
    assert set(json.loads(service.said)["recovered"].values()) == {0}, "nothing was left in the journal"


def processes_of(directory):
    """Processes with something of `directory` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{directory}/".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def pause(seconds):
    """Let the others run for a while."""
    subprocess.run(["sleep", f"{seconds:.3f}"], check=True)


def kill(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
