"""Who may import whom. The pure half stays pure, no architecture knows another, the core knows none."""

from __future__ import annotations

import ast
import sys
from typing import Any

PURE = frozenset({"msgpack", "numpy", "cryptography", "protocol"})
# The clock, the world and the task: what a pure program cannot reach for.
IMPURE = frozenset(
    {
        "asyncio", "concurrent", "ctypes", "fcntl", "http", "logging", "mmap", "multiprocessing", "os",
        "pathlib", "select", "selectors", "shutil", "signal", "socket", "socketserver", "ssl", "subprocess",
        "tempfile", "threading", "time", "urllib", "uuid", "_thread",
    }
)  # fmt: skip
# An anonymous mapping is memory, and all that is sparse; whatever opens a file is in `actors`.
MAPS_MEMORY = "protocol/memory/store.py"
# A library of events and queues in virtual time; it knows no clock of the world.
SIMULATES = "protocol/queueing/"
# The emulated guest is a program of its own, in a process of its own.
OPENS_SOCKETS = ("actors/runtime/", "actors/observe/exporter.py", "actors/hosting/vmm/guest.py")
SOCKETS = ("open_tcp_stream", "open_tcp_listeners", "serve_tcp", "open_unix_socket", "serve_listeners")


def in_package(source: Any, package: str) -> bool:
    return source.name.startswith(f"{package}/")


def test_protocol_imports_only_what_is_pure(sources: Any) -> None:
    wrong = []
    for source in sources:
        if not in_package(source, "protocol"):
            continue
        for module, _ in source.imports():
            top = module.split(".")[0]
            if (source.name, top) == (MAPS_MEMORY, "mmap"):
                continue
            if top == "simpy" and source.name.startswith(SIMULATES):
                continue
            if top not in PURE and (top not in sys.stdlib_module_names or top in IMPURE):
                wrong.append(f"{source.name} imports {module}")
    assert wrong == []


def test_what_maps_memory_maps_no_file(sources: Any) -> None:
    source = next(source for source in sources if source.name == MAPS_MEMORY)
    mappings = [
        node.args
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "mmap.mmap"
    ]
    assert [ast.unparse(arguments[0]) for arguments in mappings] == ["-1"]


def test_protocol_has_no_randomness_of_its_own(sources: Any) -> None:
    wrong = [
        f"{source.name} imports {module}.{name}"
        for source in sources
        if in_package(source, "protocol")
        for module, name in source.imports()
        if (module == "random" and name != "Random")
        or module == "secrets"
        or (module, name) == ("os", "urandom")
    ]
    assert wrong == [], "pass a random.Random in"


def test_protocol_never_asks_what_time_it_is(sources: Any) -> None:
    asks = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now"}
    wrong = [
        f"{source.name}:{line}: {call}()"
        for source in sources
        if in_package(source, "protocol")
        for call, line in source.calls()
        if call in asks
    ]
    assert wrong == []


def test_no_architecture_imports_another(sources: Any) -> None:
    """What all of them share lies beside them, in files of the registry's own folder."""
    shared = {source.module.split(".")[2] for source in sources if source.module.count(".") == 2}
    wrong = []
    for source in sources:
        parts = source.module.split(".")
        if parts[:2] != ["protocol", "arch"] or len(parts) < 3:
            continue
        for module, name in source.imports():
            target = [*module.split("."), name or ""]
            if target[:2] == ["protocol", "arch"] and target[2] not in ("", parts[2], *shared):
                # Names that the registry itself offers are no architecture.
                if module == "protocol.arch" and not (source.path.parents[0].parent / str(name)).exists():
                    continue
                wrong.append(f"{source.name} imports {module}")
    assert wrong == []


def test_the_core_knows_no_architecture(sources: Any) -> None:
    wrong = []
    for source in sources:
        if not in_package(source, "protocol") or source.name.startswith("protocol/arch/"):
            continue
        for module, name in source.imports():
            if module.startswith("protocol.arch") or (module, name) == ("protocol", "arch"):
                wrong.append(f"{source.name} imports {module}")
    assert wrong == []


def test_only_the_runtime_opens_sockets(sources: Any) -> None:
    wrong = []
    for source in sources:
        if not in_package(source, "actors") or source.name.startswith(OPENS_SOCKETS):
            continue
        wrong += [f"{source.name} imports socket" for module, _ in source.imports() if module == "socket"]
        wrong += [
            f"{source.name}:{line}: {call}()"
            for call, line in source.calls()
            if call.split(".")[-1] in SOCKETS
        ]
    assert wrong == []


def test_the_runtime_knows_nothing_of_what_runs_on_it(sources: Any) -> None:
    allowed = ("actors.runtime", "protocol.effects", "protocol.errors", "protocol.vsock", "protocol.wire")
    allowed += ("protocol.trace.span", "protocol.keys")  # what a tracer makes; reading certificates
    wrong = [
        f"{source.name} imports {module}"
        for source in sources
        if source.name.startswith("actors/runtime/")
        for module, _ in source.imports()
        if module.startswith(("actors", "protocol")) and not module.startswith(allowed)
    ]
    assert wrong == []


def test_the_public_package_is_light(sources: Any) -> None:
    light = next(source for source in sources if source.name == "nestbed/__init__.py")
    assert [
        module for module, _ in light.imports() if module.split(".")[0] not in sys.stdlib_module_names
    ] == []


def test_nothing_is_unpickled_or_evaluated(sources: Any) -> None:
    wrong = [
        f"{s.name} imports {m}"
        for s in sources
        for m, _ in s.imports()
        if m in ("pickle", "marshal", "shelve")
    ]
    wrong += [
        f"{s.name}:{line}: {call}()" for s in sources for call, line in s.calls() if call in ("eval", "exec")
    ]
    assert wrong == []
