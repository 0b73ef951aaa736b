"""`nestbed.testing`: the console as methods, exceptions with types, depths by marker and option."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from actors.keyboard import Options, keyboard
from nestbed.testing import (
    BadRequest,
    BadValue,
    ConsoleError,
    HostFault,
    Limit,
    SecureHost,
    UnknownOp,
)

ROOT = Path(__file__).resolve().parents[2]


def host(depth: int = 0, explain: bool = False, **options: Any) -> SecureHost:
    return SecureHost(keyboard(Options("s390", depth, **options), explain), "s390", depth)


# -- a host ----------------------------------------


def test_memory_is_bytes_and_addresses_are_numbers() -> None:
    one = host()
    page = one.alloc(4096, align=0x10000)
    assert page % 0x10000 == 0
    one.write(page, b"words")
    assert one.read(page, 6) == b"words\0"
    one.fill(page, 4096, 7)
    assert one.read(page + 4000, 96) == b"\7" * 96
    one.free(page)
    assert one.info()["te"]["ram_end"] == 2200 << 20


def test_a_call_answers_its_condition_and_is_no_exception() -> None:
    one = host(1, explain=True)
    page = one.alloc(4096)
    one.write(page, bytes.fromhex("00400101"))
    assert one.call(r2=page) == {"cc": 1}
    assert one.explained is not None
    assert one.explained["level"] == "emulation at L1"
    one.write(page, bytes.fromhex("01200001"))
    assert one.call(r2=page) == {"cc": 0}
    assert one.explained is None


def test_a_fault_is_an_exception_with_its_code() -> None:
    one = host()
    with pytest.raises(HostFault, match=r"addressing \(0x05\) at 0x89800000") as fault:
        one.write(2200 << 20, b"x")
    assert (fault.value.code, fault.value.name, fault.value.write) == (5, "addressing", True)
    assert fault.value.address == 2200 << 20


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        (UnknownOp, lambda one: one.ask("fly")),
        (BadValue, lambda one: one.read("here", 8)),
        (BadRequest, lambda one: one.kick()),
        (BadRequest, lambda one: one.call()),
        (Limit, lambda one: one.alloc(1 << 60)),
    ],
)
def test_an_error_is_an_exception_of_its_kind(kind: type[ConsoleError], ask: Any) -> None:
    with pytest.raises(kind) as error:
        ask(host())
    assert error.value.message in str(error.value)


def test_a_parked_call_is_resumed_by_what_park_returned() -> None:
    one = host()
    page = one.alloc(4096)
    one.write(page, bytes.fromhex("01200001"))
    call = one.park(r2=page)
    with pytest.raises(BadRequest):
        one.call(r2=page)
    assert one.resume(call) == {"cc": 0}


def test_what_is_nested_in_a_request_or_an_answer_is_converted_too() -> None:
    one = host()
    made = one.ask("image", components=[{"gaddr": 0x10000, "hex": b"kernel"}])
    assert isinstance(made["pages"][0]["hex"], bytes)
    assert made["pages"][0]["gaddr"] == 0x10000
    assert made["pages"][0]["tweak"] == [0, 0]


def test_a_sibling_is_another_host_on_the_same_console() -> None:
    one = host(1, hosts=2)
    page = one.alloc(4096)
    one.write(page, b"mine")
    assert one.sibling(1).read(page, 4) == bytes(4)


# -- the plugin, in a pytest of its own ----------------------------------------


def run_pytest(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "nestbed.testing", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *arguments, "test_it.py"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_example_of_the_document_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL)
    ran = run_pytest(tmp_path, example)
    assert ran.returncode == 0, ran.stdout
    assert "4 passed" in ran.stdout, ran.stdout


@pytest.mark.slow
def test_depths_come_from_the_marker_the_option_or_the_call(tmp_path: Path) -> None:
    text = """
import pytest

def test_option(secure_host):
    assert secure_host().depth in (0, 2)

@pytest.mark.nestbed_depths(1)
def test_marker(secure_host):
    assert secure_host().depth == 1

def test_call(secure_host):
    assert secure_host(depth=1).info()["depth"] == 1
"""
    ran = run_pytest(tmp_path, text, "--nestbed-depths", "0,2", "-vv")
    assert ran.returncode == 0, ran.stdout
    names = re.findall(r"::(test_\S+) PASSED", ran.stdout)
    assert sorted(names) == [
        "test_call[depth0]",
        "test_call[depth2]",
        "test_marker[depth1]",
        "test_option[depth0]",
        "test_option[depth2]",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "arguments", "why"),
    [
        ("def test_it(secure_host): secure_host(arch='vax')", (), "no such architecture; allowed"),
        ("def test_it(secure_host): secure_host(depth=99)", (), "allowed: 0 to"),
        ("def test_it(secure_host): pass", ("--nestbed-depths", "one"), "allowed: numbers of depths"),
        (
            "import pytest\n@pytest.mark.nestbed_depths('all')\ndef test_it(secure_host): pass",
            (),
            "allowed: numbers of depths",
        ),
    ],
    ids=["architecture", "depth", "option", "marker"],
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(
    tmp_path: Path, text: str, arguments: tuple[str, ...], why: str
) -> None:
    ran = run_pytest(tmp_path, text, *arguments)
    assert ran.returncode != 0
    assert why in ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_leak_fails_the_test_that_made_it(tmp_path: Path) -> None:
    text = """
def test_it(secure_host):
    host = secure_host(depth=0)
    answer = host.keyboard.answer
    host.keyboard.answer = lambda request: (
        {"ok": {"leaks": [{"kind": "configs"}]}} if request["op"] == "audit" else answer(request)
    )

def test_nobody_looks(secure_host):
    host = secure_host(depth=0, audit=False)
    host.keyboard.answer = None
"""
    ran = run_pytest(tmp_path, text)
    assert "the books of the levels do not agree" in ran.stdout
    assert "2 passed, 1 error" in ran.stdout, ran.stdout


def test_pytest_finds_the_plugin_by_itself() -> None:
    """The entry point has the module's name, so that naming it as well does not load it twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"nestbed.testing": "nestbed.testing"}


def test_the_plugin_loads_nothing_of_the_emulator() -> None:
    program = (
        "import sys, nestbed.testing\n"
        "print([name for name in ('actors', 'protocol', 'trio', 'numpy', 'typer') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ran.stdout == "[]\n"


@pytest.mark.slow
def test_a_test_marked_with_no_depths_runs_once_and_its_hosts_say_theirs(tmp_path: Path) -> None:
    text = """
        import pytest

        @pytest.mark.nestbed_depths()
        def test_it(secure_host):
            assert [secure_host().depth, secure_host(depth=0).depth] == [1, 0]

        class TestOfASuite:
            @pytest.fixture(params=[0, 2])
            def nestbed_depth(self, request):
                return request.param

            @pytest.mark.nestbed_depths()
            def test_it(self, secure_host):
                assert secure_host().depth in (0, 2)
    """
    ran = run_pytest(tmp_path, textwrap.dedent(text))
    assert "3 passed" in ran.stdout, ran.stdout


def test_where_no_fixture_can_be_a_host_is_opened() -> None:
    one = SecureHost.open("s390", 0, explain=True, hosts=2)
    assert one.sibling(1).info() == one.info()
    with pytest.raises(ValueError, match="no such architecture; allowed"):
        SecureHost.open("vax")
