"""An SNP guest of a plan proves what it is: the report that it has in the end, and who can verify it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.crypto.certificates import chain, vlek
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.crypto.report import SIGNED, der_signature
from protocol.arch.sev.host.attest import RESPONSE_PAGE, report_data
from protocol.arch.sev.host.kinds import KINDS, Kind, Snp
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.host.vm import GuestFailed, Vm
from protocol.arch.sev.image import SECRETS_PAGE, firmware_image, with_secrets
from protocol.arch.sev.profiles import MIB, PROFILES, TCB
from protocol.arch.sev.structs import PAGE
from protocol.effects import Step, run
from protocol.errors import OperationFailed
from protocol.plan import operations as op

IMAGE = with_secrets(bytes(range(256)) * 32)
BEGIN = (op.BootHost(), op.Create(0, 1, 2), op.Load(0), op.Start(0))


def host_of(depth: int, image: bytes = IMAGE, kind: Kind = KINDS["snp"]) -> tuple[Rig, Host]:
    rig = compose(PROFILES["small"], depth, 1, memory_bytes=32 * MIB, cpus=2)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(0), depth=depth, image=image, kind=kind)
    for operation in BEGIN:
        run(host.perform(operation))
    return rig, host


def verified(rig: Rig, report: bytes) -> bytes:
    """The report's body. Its signature and the chain up to the emulated vendor's root are good."""
    leaf, middle, root = (x509.load_der_x509_certificate(der) for der in chain(rig.machines[0].seed, TCB))
    root.verify_directly_issued_by(root)
    middle.verify_directly_issued_by(root)
    leaf.verify_directly_issued_by(middle)
    key: Any = leaf.public_key()
    key.verify(der_signature(report[SIGNED:]), report[:SIGNED], ec.ECDSA(hashes.SHA384()))
    return report[:SIGNED]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_report_names_guest_and_nonce_and_the_real_chip(depth: int) -> None:
    rig, host = host_of(depth)
    (context,) = rig.machines[0].platform.contexts.values()
    bodies = [verified(rig, run(host.perform(op.Attest(0, number % 2, number)))) for number in range(3)]
    for number, body in enumerate(bodies):
        assert body[0x50:0x90] == report_data(0, number)
        assert body[0x90:0xC0] == context.digest
        assert body[0x1A0:0x1E0] == rig.machines[0].chip
    assert len({body[0x50:0x90] for body in bodies}) == 3
    alone, other = host_of(0)
    expected = verified(alone, run(other.perform(op.Attest(0, 0, 0))))
    assert bodies[0][:0x140] == expected[:0x140], "a nested guest is measured to be another"


@pytest.mark.parametrize("depth", [0, 1])
def test_the_host_carries_ciphertext_alone(depth: int) -> None:
    """Neither the message key nor what the guest asks for is anywhere that a host can read."""
    rig, host = host_of(depth)
    run(host.perform(op.Attest(0, 0, 0)))
    (context,) = rig.machines[0].platform.contexts.values()
    assert rig.exposed(context.vmpcks[0]) == []
    assert rig.exposed(report_data(0, 0)) == []
    free = host.pool.free
    run(host.perform(op.Attest(0, 1, 1)))
    assert host.pool.free == free
    run(host.perform(op.Destroy(0)))
    run(host.perform(op.Shutdown()))
    assert rig.leaks() == []
    assert not any(rig.remains().values())


def silent(host: Host, page: int, before: bytes) -> None:
    host.driver.write(page, bytes(PAGE))


def stale(host: Host, page: int, before: bytes) -> None:
    host.driver.write(page, before)


def forged(host: Host, page: int, before: bytes) -> None:
    (byte,) = host.driver.read(page + 0x80, 1)
    host.driver.write(page + 0x80, bytes([byte ^ 1]))


@pytest.mark.parametrize("hand_over", [silent, stale, forged])
def test_a_guest_takes_no_answer_but_that_to_its_question(hand_over: Any) -> None:
    """Whatever its host gives it instead: nothing, the answer of before, one that was changed."""

    class Carrier(Snp):
        def guest_request(self, host: Host, vm: Vm, ghcb: int) -> Step[None]:
            yield from super().guest_request(host, vm, ghcb)
            page = vm.shared[RESPONSE_PAGE]
            if said:
                hand_over(host, page, said[0])
            said.append(host.driver.read(page, PAGE))

    said: list[bytes] = []
    _, host = host_of(0, kind=Carrier())
    run(host.perform(op.Attest(0, 0, 0)))
    with pytest.raises(GuestFailed, match="guest 0 got no report"):
        run(host.perform(op.Attest(0, 0, 1)))
    run(host.perform(op.Destroy(0)))


def test_a_guest_without_a_secrets_page_says_so_and_goes_on() -> None:
    _, host = host_of(0, IMAGE[PAGE:])
    with pytest.raises(OperationFailed, match="without a secrets page"):
        run(host.perform(op.Attest(0, 0, 0)))
    run(host.perform(op.Touch(0, 0, op.Pages(100, 3, 3))))


def test_the_page_that_asks_for_secrets_is_one_of_the_launch_and_firmware_names_its_own() -> None:
    _, host = host_of(0)
    vm = host.guests[0]
    assert vm.secrets == SECRETS_PAGE * PAGE
    assert len(vm.private) == 1 + (len(IMAGE) - PAGE) // PAGE
    firmware = firmware_image(bytes(2 * PAGE), "EPYC")
    assert with_secrets(firmware) == firmware


def test_a_cloud_loads_a_key_of_its_own_and_reports_are_signed_with_it() -> None:
    """The wrapping key is shared by the chip and who issues such keys for it; the TCB is authenticated."""
    rig, host = host_of(0)
    machine = rig.machines[0]
    before = run(host.perform(op.Attest(0, 0, 0)))
    seeds, nonce, tcb = bytes(range(192)) * 2, bytes(range(12)), TCB + bytes(8)
    sealed = AESGCM(derive(machine.seed, "vlek wrapping", 32)).encrypt(nonce, seeds, tcb)
    page = host.page()
    host.driver.write(page, nonce + bytes(4) + sealed[:-16] + tcb + sealed[-16:])
    run(host.driver.command("SNP_VLEK_LOAD", length=0x10, pa=page))
    report = run(host.perform(op.Attest(0, 0, 1)))
    key = vlek(seeds, TCB).public_key()
    key.verify(der_signature(report[SIGNED:]), report[:SIGNED], ec.ECDSA(hashes.SHA384()))
    with pytest.raises(InvalidSignature):
        verified(rig, report)
    assert verified(rig, before)[0x1A0:0x1E0] == machine.chip
    assert report[0x1A0:0x1E0] == bytes(64), "the key is the cloud's, and the chip is not named"
