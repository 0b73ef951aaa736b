"""Comparisons that never ran: made with real ledgers and books, so that their shapes are those of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer import testing as typer_testing

from protocol.ledger import Ledger
from protocol.tracking import Book, summary

Json = dict[str, Any]
Result = Callable[..., Json]

# To make all commands of the program takes longer than most of them do; none keeps anything of a run.
if hasattr(typer_testing, "_get_command"):
    typer_testing._get_command = cache(typer_testing._get_command)

REASON = "the owner cannot reach the pages"


def made(
    path: str, *, arch: str = "s390", lacks: Iterable[str] = (), guests: int = 4, scale: int = 1
) -> Json:
    """A result of `path`: for each guest a creation, 10 page loads, 20 exits, 5 swaps, and an end."""
    ledger = Ledger()
    l0, l1 = Book(ledger, "l0"), Book(ledger, "l1")
    nested = path in ("nested", "mixed")
    level, issuer, treatment = (2, "1", "passed") if nested else (1, "0", "own")

    def trap(reason: str, n: int, to: str = "kernel") -> None:
        """Exits of a secure guest that its own host answers, and the way back."""
        ledger.trap(level, reason, to, n)
        ledger.reenter(level - 1, n)

    ledger.phase = "host_setup"
    if path != "direct":
        ledger.trap(1, "te_call", n=30 if path == "hosted" else 3)
        l0.add("requester" if path == "hosted" else "te_context", 2)
    for _ in range(guests):
        ledger.phase = "create"
        ledger.count(("te_calls", "create_config", "vm", "modified" if nested else "own", issuer))
        ledger.count(("te_issued", "create_config", issuer))
        trap("te_call", 2 * scale)
        (l0 if nested else l1).add("vm_map")
        ledger.phase = "load"
        ledger.count(("te_calls", "unpack", "memory", treatment, issuer), 10)
        trap("te_call", 10 * scale)
        ledger.count(("copied_bytes", "block"), 800 if nested else 0)
        l0.add("secure_page" if nested else "native_page", 10)
        ledger.phase = "run"
        trap("diag_notify", 20 * scale, "vmm" if path == "hosted" else "kernel")
        ledger.phase = "swap"
        trap("te_call", 5 * scale)
        ledger.phase = "destroy"
        trap("te_call", scale)
        ledger.count(("teardown", "secure_page", "request"), 10)
    if path == "hosted":
        ledger.count(("hosting", "start"), guests)
    ledger.contention["absorbed_busy"] = 3 if nested else 0
    result: Json = {
        "arch": arch,
        "path": path,
        "depth": 0 if path == "direct" else 1,
        "realism": "prototype",
        "counts": ledger.flat(),
        "phases": ledger.phases(),
        "contention": dict(ledger.contention),
        "tracking": {book.holder: summary(book) for book in (l0, l1)},
        "modelled": None,
    }
    for phase in lacks:
        for name, number in result["phases"].pop(phase).items():
            result["counts"][name] -= number
        result["phases"][phase] = None
        result["absent"] = {f"phases.{phase}": REASON}
    return result


CLAIMS = [
    {
        "claim": "the higher we go, the less is emulated",
        "by": "construction",
        "holds": True,
        "figures": {"init": 1.0, "vm": 0.0},
    },
    {
        "claim": "hosting needs more tracking",
        "by": "emulation",
        "holds": False,
        "figures": {"nested": {"records": 46}, "hosted": {"records": 42}},
    },
    {"claim": "hosting is faster", "by": "model", "holds": None, "figures": None},
]


@pytest.fixture
def result() -> Result:
    """Makes one result."""
    return made


@pytest.fixture
def results() -> list[Json]:
    """One result of each path, in an order in which they may finish. The hosted one lacks swapping."""
    return [made("hosted", lacks=["swap"]), made("direct"), made("nested")]


@pytest.fixture
def claims() -> list[Json]:
    return [dict(claim) for claim in CLAIMS]


# -- ports of the loopback ---------------------------------------------------------------

BELOW_THEM = range(20_000, 32_768)  # below those that Linux gives away by itself


@pytest.fixture(scope="session")
def claim_ports() -> Iterator[Callable[[int], list[int]]]:
    """`claim_ports(n)`: that many ports of the loopback which are ours until the last test is over.

    A port that was free a moment ago is no such thing: the kernel gives it to whoever asks for any port and
    to each connection that somebody makes, also while its server is down for a while. So these are no ports
    that the kernel gives away, and a lock on a file stands for each one.
    """
    folder = Path(tempfile.gettempdir()) / f"nestbed-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        ports = _claimed(folder, held)
        yield lambda count: list(islice(ports, count))


def _claimed(folder: Path, held: ExitStack) -> Iterator[int]:
    for port in BELOW_THEM:
        with suppress(OSError), ExitStack() as lock, socket.socket() as probe:
            fcntl.flock(lock.enter_context((folder / str(port)).open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            held.push(lock.pop_all())
            probe.close()
            yield port


# -- machines made of network namespaces: frames cross real interfaces there -------------


def _why_no_namespaces() -> str:
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    return "" if shutil.which("ip") else "the command ip is not here"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def _machines(names: list[str]) -> Iterator[dict[str, str]]:
    mark = f"nb{os.getpid() % 10_000}"
    made = {name: f"10.77.{os.getpid() % 250}.{number + 1}" for number, name in enumerate(names)}
    with ExitStack() as undo:
        for name in ("net", *names):
            _ip("netns", "add", f"{mark}-{name}")
            undo.callback(subprocess.run, ["ip", "netns", "del", f"{mark}-{name}"], check=False)
        _ip("-n", f"{mark}-net", "link", "add", "name", "br0", "type", "bridge")
        _ip("-n", f"{mark}-net", "link", "set", "br0", "up")
        for name, address in made.items():
            space = f"{mark}-{name}"
            _ip("link", "add", "eth", "netns", space, "type", "veth", "peer", name, "netns", f"{mark}-net")
            _ip("-n", f"{mark}-net", "link", "set", name, "master", "br0", "up")
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth")
            for device in ("eth", "lo"):
                _ip("-n", space, "link", "set", device, "up")
        yield {name: f"{mark}-{name}" for name in names} | {f"{name}.address": made[name] for name in names}


@pytest.fixture
def machines() -> Callable[[list[str]], AbstractContextManager[dict[str, str]]]:
    """`with machines(names) as made`: namespaces on one bridge, and the address of each as NAME.address.

    Gone afterwards, whatever happens. Skips where they cannot be made.
    """
    why_not = _why_no_namespaces()
    if why_not:
        pytest.skip(why_not)
    return _machines
