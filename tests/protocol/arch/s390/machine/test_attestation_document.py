"""docs/arch/s390-attestation.md, held to the program: codes to the call table, examples to a guest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.evidence import attestation as evidence_of
from protocol.arch.s390.image import host_key

PAGE, MIB, FREE = 0x1000, 0x100000, 0x20000
DOCUMENT = Path(__file__).parents[5] / "docs" / "arch" / "s390-attestation.md"
TEXT = DOCUMENT.read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}")[1].split("\n## ")[0]


def codes(text: str) -> list[int]:
    return [int(code, 16) for code in re.findall(r"0x0[0-9A-F]{3}\b", text)]


def checked(code: int) -> list[int]:
    return [check.code for check in CALLS[code].checks]


def test_the_codes_of_attestation_stand_in_the_order_of_the_checks() -> None:
    rows = [row.split("|")[1] for row in section("Attestation").splitlines() if row.startswith("| 0x")]
    assert codes(" ".join(rows)) == [0x0005, *checked(0x1020)]


@pytest.mark.parametrize(
    ("name", "code"), [("Add", 0x1031), ("List", 0x1033), ("Lock", 0x1034), ("Retrieve", 0x1035)]
)
def test_so_do_those_of_the_secret_calls(name: str, code: int) -> None:
    row = next(row for row in section("Secrets").splitlines() if row.startswith(f"| {name} |"))
    assert codes(row) == checked(code)


def test_the_codes_of_the_dump_calls_are_all_there() -> None:
    rows = [row.split("|")[1] for row in section("Dumps").splitlines() if row.startswith("| 0x")]
    known = {code for call in range(0x0400, 0x0404) for code in checked(call)}
    assert codes(" ".join(rows)) == sorted(known)


def example(title: str) -> str:
    return re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)[0]


def test_the_example_of_attestation_runs(guest: Any) -> None:
    for gaddr in (FREE, FREE + PAGE, FREE + 2 * PAGE):
        guest.secure(gaddr)
    seed = guest.bench.seed
    asked = evidence_of.build([host_key(seed, "host")], seed=1, digest=b"today")
    guest.write(FREE, asked.raw)
    fields = {"q18": FREE, "w13c": 64, "q140": FREE + PAGE, "w15c": 32, "q160": FREE + 2 * PAGE}
    reply = guest.call(0x188, 0x1020, **fields).done()
    given = {
        "seed": seed,
        "image": guest.image,
        "uid": reply.block[0x148:0x158],
        "measurement": guest.read(FREE + PAGE, 64),
        "additional": guest.read(FREE + 2 * PAGE, 32),
        "user_data": b"",
    }
    exec(example("Attestation"), given)


def test_the_example_of_dumps_runs(guest: Any) -> None:
    bench = guest.bench
    guest.secure(FREE)
    guest.write(FREE, b"found")
    bench.call(0x40, 0x0400, q18=guest.handle).done()
    cpu, completion, state = bench.alloc(), bench.alloc(), bench.alloc(2)
    bench.call(0x50, 0x0402, q18=guest.cpus[0], q20=cpu).done()
    memory = {page: guest.export(page * PAGE) for page in guest.pages}
    for number in range(2):
        fields = {"q18": guest.handle, "q20": state + number * PAGE, "q28": number * MIB}
        bench.call(0x50, 0x0401, **fields).done()
    bench.call(0x50, 0x0403, q18=guest.handle, q20=completion).done()
    given: dict[str, Any] = {
        "cck": guest.image.cck,
        "completion": bench.read(completion),
        "cpus": [bench.read(cpu)],
        "storage_state": bench.read(state, 2 * PAGE),
        "memory": memory,
    }
    exec(example("Dumps"), given)
    assert given["dump"].read(FREE, 5) == b"found"


def test_the_machines_key_is_made_as_the_document_says() -> None:
    import hashlib

    from cryptography.hazmat.primitives.asymmetric import ec

    order = (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7
    for seed in (0, 11):
        label = re.search(r"SHAKE-256\(`([^`]*)`\)", TEXT)
        assert label is not None
        material = hashlib.shake_256(label[1].replace("<seed>", str(seed)).encode()).digest(82)
        private = ec.derive_private_key(int.from_bytes(material, "big") % (order - 1) + 1, ec.SECP521R1())
        numbers = private.public_key().public_numbers()
        public = numbers.x.to_bytes(80, "big") + numbers.y.to_bytes(80, "big")
        assert host_key(seed, "host").public == public
