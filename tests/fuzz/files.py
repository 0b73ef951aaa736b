"""Files and lines that people and programs give the command, beside scenarios and transcripts.

Costs, runs and load tests of others, deployments, measurements, exit profiles, certificates, addresses, a
journal that was damaged on its disk; and requests to the metrics endpoint.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import cache
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from documents import mistaken
from draw import anything, changed, number
from papers import said, spoilt
from prometheus_client import CollectorRegistry
from wires import driven

from actors.commands.report import _load as load_beside
from actors.compare.bundle import document
from actors.compare.diff import BadBase, changes, one_sided, other_scenario, read_base
from actors.compare.progress import Progress
from actors.compare.run import run as run_scenario
from actors.compare.shown import difference, shown
from actors.costs import UnreadableCosts
from actors.costs import load as load_costs
from actors.costs import shipped as shipped_costs
from actors.deployment.settings import read_deployment
from actors.hosting.vmm.qemu import MEMBERS, unpack
from actors.observe.exporter import HEAD_BYTES, _Exporter
from actors.runtime.transport.pki import Authority, Credentials
from actors.runtime.transport.tls import TICKET_BYTES, _ticket
from actors.scenario import BrokenScenario, UnreadableScenario
from actors.scenario import load as load_scenario
from protocol.arch.s390.image.keys import public_key
from protocol.cost.calibrate import BadMeasurements, fitted, read_points
from protocol.cost.exits import BadProfile
from protocol.cost.exits import read as read_profile
from protocol.errors import RemoteProtocolError
from protocol.hosting import CountingBook, Identity, Limits, Service
from protocol.hosting.idempotency import Key
from protocol.hosting.journal import Row, SimulatedDisk
from protocol.hosting.recovery import restore
from protocol.hosting.registry import Registry
from protocol.plan.scenario import parse_threshold
from protocol.vsock.address import parse_address
from protocol.wire import pack_frame


def in_file(data: bytes, name: str, read: Callable[[Path], Any], *refusals: type[Exception]) -> str:
    """What reading a file of that name with `data` in it came to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return said(lambda: read(path), *refusals)


ODD = (10**400, -(10**30), float("nan"), "\ud800", "\udfff.", [[[[[]]]]], {"\ud800": 1}, "x" * 5000)


def poked(random: Random, value: Any) -> Any:
    """A plain value with something else somewhere inside."""
    if random.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return anything(random) if random.random() < 0.9 else random.choice(ODD)
    made: Any = value.copy()
    key = random.choice(list(made) if isinstance(made, dict) else range(len(made)))
    if random.random() < 0.1:
        del made[key]
    else:
        made[key] = poked(random, made[key])
    return made


def as_json(value: Any) -> bytes:
    return json.dumps(value, default=lambda data: data.hex()).encode()


# -- costs, measurements, profiles -------------------------------------------------------------------------


@cache
def cost_table() -> bytes:
    return (resources.files("protocol.cost") / "costs.toml").read_bytes()


def costs(random: Random) -> Iterator[str]:
    """Overlays of the table of costs."""
    blocks = cost_table().split(b"\n\n")
    for _ in range(5):
        some = b"\n\n".join(random.sample(blocks, min(len(blocks), 4)))
        yield in_file(mistaken(random, some), "costs.toml", load_costs, UnreadableCosts)


POINTS = b"pages,seconds\n1,0.5\n2,0.9\n10 4.5\n20;9\n"
PERF = b"""
             VM-EXIT    Samples  Samples%     Time%
       EPT_VIOLATION      10000    50.00%    30.00%
  EXTERNAL_INTERRUPT       5000    25.00%    30.00%
"""
STAT = b"Timestamp,kvm_exit,kvm_exit(HLT)\n2024-01-01T00:00:00,10,5\n2024-01-01T00:00:01,20,7\n"
TABLE = b"# reason rate\nHLT 100\nnmi, 3.5\n"
WORDS = (b"nan", b"inf", b"-1", b"1e400", b"9" * 5000, b"2024-01-01T00:00:00+00:00", b"0", b"", b",")


def measurements(random: Random) -> Iterator[str]:
    """What `nestbed calibrate` and `nestbed predict` read."""
    for _ in range(20):
        points = _reworded(random, POINTS)
        yield said(lambda points=points: _fitted(points), BadMeasurements)
        profile = _reworded(random, random.choice((PERF, STAT, TABLE)))
        seconds = random.choice((None, 0.0, 10.0))
        yield said(lambda profile=profile, seconds=seconds: _profiled(profile, seconds), BadProfile)


def _fitted(text: str) -> None:
    fitted(read_points(text))


def _profiled(text: str, seconds: float | None) -> None:
    found = read_profile(text, seconds)
    assert found.total >= 0, found
    assert 0 <= found.own_share <= 1, found


def _reworded(random: Random, text: bytes) -> str:
    words = text.split(b" ") if random.random() < 0.5 else text.split(b",")
    for _ in range(random.randrange(3)):
        words[random.randrange(len(words))] = random.choice(WORDS)
    made = (b" " if text.count(b" ") and len(words) > text.count(b",") + 1 else b",").join(words)
    return (mistaken(random, made) if random.random() < 0.5 and made.strip() else made).decode(
        errors="replace"
    )


# -- runs --------------------------------------------------------------------------------------------------


@cache
def run() -> dict[str, Any]:
    """What `nestbed compare --json` prints of a small scenario, priced."""
    flags = {"arch": "pef"}
    resolved = load_scenario("impact", flags=flags, environment={})
    outcome = run_scenario(resolved.scenario, Progress(), costs=shipped_costs())
    made: dict[str, Any] = json.loads(json.dumps(document(resolved.scenario, outcome, [])))
    return made


def runs(random: Random) -> Iterator[str]:
    """A run of somebody else: read, compared with another, shown in a page."""
    for _ in range(3):
        data = as_json(poked(random, run()))
        data = changed(random, data) if random.random() < 0.3 else data
        yield in_file(data, "run.json", _compared, BadBase)
        load = as_json(poked(random, {"load": {"path": "nested", "latency": {}}}))
        with redirect_stderr(io.StringIO()):
            yield in_file(load, "load.json", load_beside)


def _compared(path: Path) -> None:
    found = read_base(path)
    changes(run()["results"], found["results"])
    one_sided(run()["results"], found["results"])
    other_scenario(run(), found)
    shown(path, found, 100)
    difference(run(), found, "a", path)


# -- deployments, addresses, certificates ------------------------------------------------------------------

LAB = b"""
name = "lab"
arch = "s390"
scenario = "default"
seed = 1
machines = 2
placement = "apart"
tenants = ["alice"]
[restart]
[lease]
[load]
paths = ["nested"]
[set]
"guest.vcpus" = 2
"""


def deployment(random: Random) -> Iterator[str]:
    """Deployments: one is read, or refused with every mistake in it."""
    for _ in range(5):
        yield in_file(mistaken(random, LAB), "lab.toml", read_deployment, BrokenScenario, UnreadableScenario)


def words(random: Random) -> Iterator[str]:
    """Addresses and thresholds, as people write them."""
    for _ in range(40):
        text = random.choice(
            ("vsock:2:5200", "hybrid:/run/x:5200", "unix:/run/x", "tcp:host:52", "memory:3:1")
        )
        address = changed(random, text.encode()).decode("utf-8", "replace")
        yield said(lambda address=address: parse_address(address), ValueError)
        bound = changed(random, random.choice((b"< 100000", b">= 1.5", b"==0"))).decode("utf-8", "replace")
        yield said(lambda bound=bound: parse_threshold("counts.nested.x", bound), ValueError)


@cache
def authority() -> dict[str, bytes]:
    """The files of an authority, and of one process."""
    with tempfile.TemporaryDirectory() as folder:
        made = Authority.create(Path(folder) / "pki")
        made.issue("l1", "one", ["127.0.0.1"])
        return {each.name: each.read_bytes() for each in made.folder.iterdir()}


def spoilt_key(random: Random, pem: bytes) -> bytes:
    """Mostly with mistakes below its letters, where they are not seen at once."""
    first, *lines, last = pem.strip().split(b"\n")
    if random.random() < 0.3 or not last.startswith(b"-----END"):
        return spoilt(random, pem)
    der = bytearray(base64.b64decode(b"".join(lines)))
    for _ in range(random.randrange(1, 3)):
        at = random.randrange(len(der))
        der[at] = random.choice((der[at] ^ 1 << random.randrange(8), random.randrange(8), 0x30, 0x80, 0xFF))
    return first + b"\n" + base64.encodebytes(bytes(der)) + last + b"\n"


def certificates(random: Random) -> Iterator[str]:
    """Files of `nestbed pki` with mistakes."""
    given = authority()
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            spoiled = random.choice([*given])
            for name, data in given.items():
                (Path(folder) / name).write_bytes(spoilt_key(random, data) if name == spoiled else data)
            yield said(lambda folder=folder: Authority.open(Path(folder)), ValueError)
            beside = Credentials.beside(Path(folder) / "l1-one.pem")
            yield said(lambda beside=beside: beside.says(), ValueError)


@cache
def archive() -> tuple[bytes, ...]:
    """An image for QEMU, as it is and compressed."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("kernel", "initrd"):
            about = tarfile.TarInfo(name)
            about.size = 2000
            tar.addfile(about, io.BytesIO(bytes(2000)))
    plain = made.getvalue()
    return plain, gzip.compress(plain), bz2.compress(plain), lzma.compress(plain)


def archives(random: Random) -> Iterator[str]:
    """Images for QEMU that a requester sent, and keys of hosts that an owner got."""
    for _ in range(10):
        data = spoilt(random, random.choice(archive()))
        if random.random() < 0.5:
            data = _headed(random) + archive()[0]
        yield in_file(data, "image", _unarchived, ValueError)
        key = authority()[random.choice(["ca.pem", "l1-one.pem"])]
        key = p521() if random.random() < 0.5 else key
        yield said(lambda key=key: public_key(spoilt_key(random, key)), ValueError)


def _headed(random: Random) -> bytes:
    """A header of any kind, of anything, before the others; or many of them."""
    made = bytearray(512)
    name = random.choice((b"kernel", b"initrd", b"cmdline", b"x", b"../kernel", b"/kernel"))
    size = random.choice((0, 0, 12, 512, number(random, bits=88)))
    made[: len(name)] = name
    made[100:148] = b"0000644\0" + b"0000000\0" * 2 + b"\x80" + size.to_bytes(11, "big") + b"%011o\0" % 0
    made[156] = random.choice(b"0123456789LKxgSVX\0")
    made[157:163], made[257:265] = random.choice((b"kernel", b"/etc/x", bytes(6))), b"ustar\00000"
    made[148:156] = b"        "
    made[148:156] = b"%06o\0 " % sum(made)
    body = random.choice(
        (b"", b"12 path=abc\n", b"20 size=-99999999999\n", b"\xff" * 9, b"9" * 99 + b" a=b\n")
    )
    body = body.ljust(-(-len(body) // 512) * 512, b"\0")
    return (bytes(made) + body) * random.choice((1, 1, 1, 2, 700))


def _unarchived(path: Path) -> None:
    unpack(path, path.parent)
    assert {each.name for each in path.parent.iterdir()} <= {"image", *MEMBERS}
    assert (path.parent / "kernel").is_file()


@cache
def p521() -> bytes:
    key = ec.derive_private_key(12345, ec.SECP521R1()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


# -- a journal that was damaged ----------------------------------------------------------------------------

IMAGE = b"an image"


@cache
def journal() -> tuple[Row, ...]:
    """What a service with a child leaves on its disk."""
    disk, who = SimulatedDisk(), Identity(3, 1)
    service = Service(seed=1, journal=disk.journal)
    spec = {"image": hashlib.sha256(IMAGE).digest(), "vcpus": 1, "memory_mib": 64}
    frames = (
        ("hello", None, {"versions": [1]}),
        ("image.put", None, {"digest": spec["image"], "size": len(IMAGE), "offset": 0, "data": IMAGE}),
        ("start", Key(1, 1).packed(), {"spec": spec}),
    )
    for rank, (kind, key, body) in enumerate(frames, 1):
        rid = rank.to_bytes(16, "big")
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": 1, "dl": None, "key": key, "b": body}
        reply = driven(service.handle(who, frame, 1000), 1000, disk.flush)
        assert reply["t"] != "err", reply
    disk.flush()
    return tuple(disk.rows())


def rows(random: Random) -> Iterator[str]:
    """Rows of a journal, one of them with something else in it: a service starts from it, or says why not."""
    for _ in range(5):
        kept = list(journal())
        at = random.randrange(len(kept))
        kept[at] = damaged(random, kept[at])
        yield said(lambda kept=kept: restore(_fresh(), kept), ValueError)
        yield said(lambda kept=kept: SimulatedDisk(kept), ValueError)


def _fresh() -> Registry:
    disk = SimulatedDisk()
    return Registry(Limits(), disk.journal, CountingBook(), 1)


def damaged(random: Random, row: Row) -> Row:
    if random.random() < 0.3 or not row.data:
        return row._replace(data=spoilt(random, row.data or b""))
    try:
        return row._replace(data=msgpack.packb(poked(random, msgpack.unpackb(row.data))))
    except (TypeError, ValueError, OverflowError):
        return row._replace(kind="x")


# -- over a socket -----------------------------------------------------------------------------------------

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n"
STATUS = {b"200", b"400", b"404", b"405", b"431", b"500", b"503"}


def metrics(random: Random) -> Iterator[str]:
    """Requests to the metrics endpoint: each is answered, or its connection ends."""
    for _ in range(10):
        request = changed(random, REQUEST) if random.random() < 0.8 else random.randbytes(200)
        if random.random() < 0.05:
            request = request[:20] + b"x" * HEAD_BYTES + request[20:]
        said_back = trio.run(_asked, request)
        status = said_back[9:12]
        assert not said_back or (said_back.startswith(b"HTTP/1.1 ") and status in STATUS), said_back[:80]
        assert status != b"500", said_back
        yield status.decode() or "closed"


async def _asked(request: bytes) -> bytes:
    ours, theirs = trio.testing.memory_stream_pair()
    exporter, heard = _Exporter(CollectorRegistry(), lambda: True), b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exporter.serve, theirs)
        await ours.send_all(request)
        await ours.send_eof()
        with_all = True
        while with_all:
            more = await ours.receive_some(4096)
            heard, with_all = heard + more, bool(more)
    return heard


def tickets(random: Random) -> Iterator[str]:
    """The first frame on a connection with TLS: the name of a link."""
    for _ in range(20):
        right = pack_frame(["a" * random.randrange(TICKET_BYTES)])
        data = changed(random, right) if random.random() < 0.8 else right
        yield said(lambda data=data: trio.run(_took, data), RemoteProtocolError)


async def _took(data: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(data)
    await ours.send_eof()
    assert isinstance(await _ticket(theirs), str)


TARGETS: tuple[Callable[[Random], Iterator[str]], ...] = (
    costs, measurements, runs, deployment, words, certificates, archives, rows, metrics, tickets,
)  # fmt: skip
