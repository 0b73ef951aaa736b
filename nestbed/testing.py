"""Secure hosts for tests: a pytest plugin, loaded by pytest itself where nestbed is installed.

    def test_something(secure_host):
        host = secure_host(arch="s390", depth=1)
        page = host.alloc(4096)

`secure_host` makes hosts, one console each. What they are asked is what the console is asked
(`nestbed console`), as methods; a fault of the architecture and an error of the console are exceptions. Which
depths a test runs at: `@pytest.mark.nestbed_depths(0, 1, 2)`, else `--nestbed-depths 0,1,2`, else 1; a host
that is asked for with a depth has that one. When a test is over, the books of its consoles are audited: a
leak fails it.

Importing this costs nothing but pytest; the emulator is loaded with the first host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

__all__ = [
    "BadRequest",
    "BadValue",
    "ConsoleError",
    "Dead",
    "HostFault",
    "Limit",
    "MakeHost",
    "SecureHost",
    "UnknownOp",
]

Json = dict[str, Any]
_NUMBER = re.compile("0x[0-9a-f]+")


class HostFault(Exception):
    """The architecture raised an exception on the issuing CPU instead of completing.

    `code`, `name`, `address` and `write` say which; `body` has all that the console told.
    """

    def __init__(self, body: Json) -> None:
        self.body: Json = _read(body)
        self.code: int = self.body["code"]
        self.name: str = self.body["name"]
        self.address: int = self.body.get("address", 0)
        self.write: bool = self.body.get("write", False)
        super().__init__(f"{self.name} ({self.code:#04x}) at {self.address:#x}")


class ConsoleError(Exception):
    """The request made no sense; nothing changed. `field` names what was wrong, if it was one field."""

    def __init__(self, body: Json) -> None:
        self.code: str = body["code"]
        self.message: str = body["message"]
        self.field: str = body.get("field", "")
        super().__init__(f"{self.code}: {self.message}")


class BadRequest(ConsoleError):
    """Something is missing, or cannot be asked now."""


class BadValue(ConsoleError):
    """A field has a value that is not allowed."""


class UnknownOp(ConsoleError):
    """The console has no such operation."""


class Limit(ConsoleError):
    """There is not so much of it."""


class Dead(ConsoleError):
    """The machine stands still; only `reset` and `kill` are answered."""


_ERRORS: dict[str, type[ConsoleError]] = {
    "bad_request": BadRequest,
    "bad_value": BadValue,
    "unknown_op": UnknownOp,
    "limit": Limit,
    "dead": Dead,
}


class Keyboard(Protocol):
    """One request in, one answer out."""

    def answer(self, request: Json) -> Json: ...


class SecureHost:
    """One secure host at the keyboard. Numbers are numbers and memory is bytes, both ways.

    `explained` is what the console said of the last call that was refused, where it explains itself.
    """

    def __init__(self, keyboard: Keyboard, arch: str, depth: int, which: int = 0) -> None:
        self.keyboard = keyboard
        self.arch = arch
        self.depth = depth
        self.which = which
        self.explained: Json | None = None
        self._asked = 0

    @classmethod
    def open(cls, arch: str = "s390", depth: int = 1, *, explain: bool = False, **options: Any) -> SecureHost:
        """A host on a console of its own, for where no fixture can be: many of them in one test, a script.

        Nobody audits it. Raises ValueError for what makes no sense, saying what is allowed.
        """
        from actors.keyboard import Options, WrongOptions, keyboard

        try:
            return cls(keyboard(Options(arch, depth, **options), explain), arch, depth)
        except WrongOptions as wrong:
            raise ValueError(str(wrong)) from None

    def __repr__(self) -> str:
        return f"<secure host {self.which} of {self.arch} at depth {self.depth}>"

    def sibling(self, which: int) -> SecureHost:
        """Another host on the same console (`hosts=2`)."""
        return SecureHost(self.keyboard, self.arch, self.depth, which)

    def ask(self, op: str, **fields: Any) -> Json:
        """Put any request of the console; what `ok` holds. Raises HostFault, ConsoleError."""
        self._asked += 1
        request: Json = {"id": self._asked, "op": op, "host": self.which}
        answer = self.keyboard.answer(request | {name: _write(value) for name, value in fields.items()})
        self.explained = answer.get("explain")
        if "fault" in answer:
            raise HostFault(answer["fault"])
        if "error" in answer:
            raise _ERRORS.get(answer["error"]["code"], ConsoleError)(answer["error"])
        done: Json = _read(answer["ok"])
        return done

    # -- memory ------------------------------------------------------------------------------------------

    def alloc(self, length: int, **where: int) -> int:
        """Memory that nobody uses, zeroed: `align`, `above`, `below`. Its address."""
        address: int = self.ask("alloc", len=length, **where)["addr"]
        return address

    def free(self, address: int) -> None:
        """Give back what `alloc` gave."""
        self.ask("free", addr=address)

    def read(self, address: int, length: int, **how: Any) -> bytes:
        """Load as one of the host's CPUs does; `space` is "phys" or the architecture's own."""
        data: bytes = self.ask("read", addr=address, len=length, **how)["hex"]
        return data

    def write(self, address: int, data: bytes, **how: Any) -> None:
        """Store all of it, or raise HostFault and store nothing."""
        self.ask("write", addr=address, hex=data, **how)

    def fill(self, address: int, length: int, byte: int = 0, **how: Any) -> None:
        """Store one byte everywhere."""
        self.ask("fill", addr=address, len=length, byte=byte, **how)

    # -- instructions ------------------------------------------------------------------------------------

    def call(self, **registers: Any) -> Json:
        """The call of the Trusted Entity, with its registers as the instruction has them."""
        return self.ask("call", **registers)

    def park(self, **registers: Any) -> int:
        """Issue a call that the Trusted Entity stops inside; what `resume` is given."""
        self.ask("call", park=True, **registers)
        return self._asked

    def resume(self, call: int) -> Json:
        """Let a parked call go on; its own answer."""
        return self.ask("resume", call=call)

    def insn(self, name: str, **registers: Any) -> Json:
        """Another privileged instruction."""
        return self.ask("insn", name=name, **registers)

    def enter(self, vcpu: int, **how: Any) -> Json:
        """Run a guest's CPU until it exits."""
        return self.ask("enter", vcpu=vcpu, **how)

    def guest(self, vcpu: int, *do: Json, **how: Any) -> Json:
        """What the guest does on its next entries."""
        return self.ask("guest", vcpu=vcpu, do=list(do), **how)

    def kick(self, cpu: int = 0) -> Json:
        """Bring a CPU out of a guest that it stays in."""
        return self.ask("kick", cpu=cpu)

    def cpu(self, cpu: int = 0, **settings: Any) -> Json:
        """Change settings of a CPU; all of them as they are now."""
        return self.ask("cpu", cpu=cpu, **settings)

    # -- the whole host ----------------------------------------------------------------------------------

    def info(self) -> Json:
        """What there is: memory, CPUs, page size, facts about the Trusted Entity."""
        return self.ask("info")

    def reset(self, kind: str) -> None:
        """One of the architecture's resets; at depth 1 and more the reboot of the VM."""
        self.ask("reset", kind=kind)

    def kill(self) -> None:
        """Sudden death; a fresh host takes the place."""
        self.ask("kill")

    def audit(self) -> Json:
        """The books of the levels held against the Trusted Entity's."""
        return self.ask("audit")

    def counts(self, reset: bool = True) -> Json:
        """What this host issued and received since the last reset of the counts, and what that took below."""
        return self.ask("counts", reset=reset)


def _write(value: Any) -> Any:
    """Bytes as the console has them, also inside of lists and objects."""
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, dict):
        return {name: _write(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_write(inner) for inner in value]
    return value


def _read(value: Any, name: str = "") -> Any:
    """Numbers as numbers; what is called `hex` as bytes; anything else stays what it is."""
    if isinstance(value, dict):
        return {inner: _read(of, inner) for inner, of in value.items()}
    if isinstance(value, list):
        return [_read(inner) for inner in value]
    if isinstance(value, str):
        if name == "hex":
            return bytes.fromhex(value)
        return int(value, 16) if _NUMBER.fullmatch(value) else value
    return value


# -- the plugin ----------------------------------------------------------------------------------------------


class MakeHost(Protocol):
    """What the fixture `secure_host` is.

    `options` are those of the console: hosts, memory_mib, cpus, profile, seed. With `explain` refused calls
    say who refused them; without `audit` the books are not looked at when the test is over.
    """

    def __call__(
        self,
        arch: str = "s390",
        depth: int | None = None,
        *,
        explain: bool = False,
        audit: bool = True,
        **options: Any,
    ) -> SecureHost: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which depths tests run at that do not say so themselves."""
    parser.getgroup("nestbed").addoption(
        "--nestbed-depths",
        default="1",
        metavar="N,...",
        help="depths at which tests with secure_host run, like 0,1,2 (1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "nestbed_depths(*depths): run with secure hosts at these depths")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a secure host runs once at each of its depths; without depths, as its suite says."""
    depths = _depths(metafunc) if "nestbed_depth" in metafunc.fixturenames else ()
    if depths:
        metafunc.parametrize("nestbed_depth", depths, ids=[f"depth{depth}" for depth in depths])


def _depths(metafunc: pytest.Metafunc) -> tuple[int, ...]:
    marker = metafunc.definition.get_closest_marker("nestbed_depths")
    if marker is not None:
        if not all(type(depth) is int and depth >= 0 for depth in marker.args):
            raise pytest.UsageError("nestbed_depths: allowed: numbers of depths, like (0, 1, 2)")
        return tuple(marker.args)
    text = metafunc.config.getoption("--nestbed-depths")
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise pytest.UsageError(f"--nestbed-depths {text}: allowed: numbers of depths, like 0,1,2")
    return tuple(dict.fromkeys(int(depth) for depth in text.split(",")))


@pytest.fixture
def nestbed_depth() -> int:
    """The depth of a test that is marked with no depths; a suite may have a fixture of its own for it."""
    return 1


@pytest.fixture
def secure_host(nestbed_depth: int) -> Iterator[MakeHost]:
    """Make secure hosts, each with a console of its own; `sibling` is another one on the same."""
    made: list[SecureHost] = []

    def make(
        arch: str = "s390",
        depth: int | None = None,
        *,
        explain: bool = False,
        audit: bool = True,
        **options: Any,
    ) -> SecureHost:
        at = nestbed_depth if depth is None else depth
        host = SecureHost.open(arch, at, explain=explain, **options)
        if audit:
            made.append(host)
        return host

    yield make
    leaks = [leak for host in made for leak in _leaks(host)]
    if leaks:
        pytest.fail(f"the books of the levels do not agree: {leaks}", pytrace=False)


def _leaks(host: SecureHost) -> list[Json]:
    """What only one of two books has; a machine that stands still tells nothing."""
    try:
        leaks: list[Json] = host.audit()["leaks"]
    except Dead:
        return []
    return leaks
