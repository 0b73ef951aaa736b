"""The op `sequence`: let the host's own software act. Contract of the console, `sequence`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.driver import Driver, Failed
from protocol.arch.sev.host.guests import KINDS, Guests, Vm
from protocol.effects import run
from protocol.keyboard import Complaint, Fields

NAMES = ("probe", "launch", "attest", "convert", "destroy")
PAGES = 1 << 20
VCPUS = 512
SECRETS = 1024


class Software:
    """The kernel and the VMMs of one host, from its last reset on."""

    def __init__(
        self, hands: Hands, allocate: Callable[[int, int], int], key_of: Callable[[int], bytes]
    ) -> None:
        self._hands = hands
        self._allocate = allocate
        self._key_of = key_of
        self._started: tuple[Driver, Guests] | None = None

    def forget(self) -> None:
        """The host starts anew."""
        self._started = None

    def act(self, fields: Fields) -> dict[str, Any]:
        """Everything in the request is looked at before anything is done.

        What is refused on the way ends it there.
        """
        name = fields.choice("name", NAMES)
        action = getattr(self, f"_{name}")(fields)
        try:
            result: dict[str, Any] = action()
        except Failed as failed:
            raise Complaint("bad_request", f"{name}: {failed}", "name") from failed
        return result

    def _parts(self) -> tuple[Driver, Guests]:
        if self._started is None:
            driver = Driver(self._hands, self._allocate)
            self._started = driver, Guests(driver, self._key_of)
        return self._started

    def _probe(self, fields: Fields) -> Callable[[], dict[str, Any]]:
        def action() -> dict[str, Any]:
            run(self._parts()[0].probe())
            return {}

        return action

    def _launch(self, fields: Fields) -> Callable[[], dict[str, Any]]:
        kind = fields.choice("kind", KINDS)
        pages = fields.number("pages", low=1, high=PAGES)
        runs = fields.number("runs", 1, 1, pages)
        vcpus = fields.number("vcpus", 1, 1, VCPUS)
        secrets = fields.number("secrets", 0, 0, SECRETS)
        if secrets and kind == "snp":
            raise fields.wrong("secrets", "0 for an SNP guest: its owner sends secrets after attestation")

        def action() -> dict[str, Any]:
            vm = run(self._parts()[1].launch(kind, pages, runs, vcpus, secrets))
            return {"vm": vm.number, "vmcbs": [hex(vmcb) for vmcb in vm.vmcbs]}

        return action

    def _vm(self, fields: Fields) -> Vm:
        vms = self._started[1].vms if self._started else {}
        vm = vms.get(fields.number("vm"))
        if vm is None:
            raise fields.wrong("vm", "a guest that launch made and destroy has not ended")
        return vm

    def _attest(self, fields: Fields) -> Callable[[], dict[str, Any]]:
        vm = self._vm(fields)
        return lambda: {"report": run(self._parts()[1].attest(vm)).hex()}

    def _convert(self, fields: Fields) -> Callable[[], dict[str, Any]]:
        vm = self._vm(fields)
        pages = fields.number("pages", low=1, high=len(vm.pages))
        to = fields.choice("to", ("shared", "private"))

        def action() -> dict[str, Any]:
            run(self._parts()[1].convert(vm, pages, to))
            return {}

        return action

    def _destroy(self, fields: Fields) -> Callable[[], dict[str, Any]]:
        vm = self._vm(fields)

        def action() -> dict[str, Any]:
            run(self._parts()[1].destroy(vm))
            return {}

        return action
