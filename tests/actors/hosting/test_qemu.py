"""A real QEMU behind the interface: booted, ready, spoken to, stopped; the lines of real hardware."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from actors.hosting.vmm import qemu
from nestbed.client import ERRORS

PROGRAM = shutil.which("qemu-system-x86_64")
KERNEL = os.environ.get("NESTBED_QEMU_KERNEL", "")
needs_qemu = pytest.mark.skipif(
    not PROGRAM or not Path(KERNEL).is_file(),
    reason="needs qemu-system-x86_64 and NESTBED_QEMU_KERNEL, a kernel with serial ports built in",
)
FACTS = {"memory_mib": "256", "vcpus": "2", "nonce": "00" * 16, "policy": "0"}


def tiny_guest():
    found = importlib.util.spec_from_file_location("tiny_guest", Path(__file__).with_name("tiny_guest.py"))
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def image(tmp_path):
    (tmp_path / "initrd").write_bytes(tiny_guest().initrd())
    qemu.pack(tmp_path / "image", Path(KERNEL), tmp_path / "initrd", "quiet")
    return tmp_path / "image"


@needs_qemu
@pytest.mark.slow
def test_a_kernel_boots_says_that_it_is_ready_and_is_spoken_to(service_process, image):
    service = service_process("--qemu", "--admin")
    with service.client() as host:
        child = host.start(image, vcpus=1, memory_mib=256, vmm="qemu", ready="notified", debug=True)
        assert child.state == "READY"
        host.renew()  # to boot takes long without hardware
        with host.channel(child.id, 1) as stream:
            stream.sendall(b"hello")
            got = b""
            while len(got) < 5:
                got += stream.recv(100)
            assert got == b"hello"
            while b"up\r\n" not in host.console(child.id)[0]:
                pass  # the other serial port, which is on its way by itself
            service.kill()
            service.start()
        assert host.describe(child.id)["state"] == "READY", "QEMU is a process of its own, too"
        with host.channel(child.id, 1) as stream:
            stream.sendall(b"Q")  # the guest powers itself off
            assert host.wait(child.id, "STOPPED", 30)["state"] == "STOPPED"
        host.destroy(child.id)
        assert service.order("audit") == {"leaks": []}
        assert service.guests() == {}


@needs_qemu
@pytest.mark.slow
def test_a_reserved_guest_boots_nothing_and_what_is_no_image_is_refused(service_process, tmp_path):
    qemu.pack(tmp_path / "image", Path(KERNEL))
    service = service_process("--qemu")
    with service.client() as host:
        key = host.key()
        host.start(tmp_path / "image", key=key, mode="reserve", **a_spec())
        (child,) = host.list()
        host.destroy(child["child"])
        assert service.guests() == {}
        with pytest.raises(ERRORS["IMAGE_INVALID"]):
            host.start(b"no archive", **a_spec())


def a_spec():
    return {"vcpus": 1, "memory_mib": 256, "vmm": "qemu", "ready": "notified"}


def test_what_is_no_image_for_qemu_is_told_so(tmp_path):
    (tmp_path / "image").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="no tar archive"):
        qemu.unpack(tmp_path / "image", tmp_path)
    with tarfile.open(tmp_path / "image", "w") as archive:
        archive.add(Path(__file__), "../kernel")
    with pytest.raises(ValueError, match="kernel, initrd and cmdline"):
        qemu.unpack(tmp_path / "image", tmp_path / "image")


@pytest.mark.parametrize("stored", [-(1 << 40), 1 << 44, 1 << 60, (1 << 63) - 1])
def test_an_image_that_leads_behind_the_end_of_any_file_is_none(tmp_path, stored):
    """A sparse member says how much of it is stored; what follows would be that far away."""
    member = tarfile.TarInfo("kernel")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, stored
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"00000000005\0"  # bytes that the kernel has
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "image").write_bytes(bytes(header) + bytes(2 * tarfile.BLOCKSIZE))
    with pytest.raises(ValueError, match="no tar archive"):
        qemu.unpack(tmp_path / "image", tmp_path)


def test_kvm_is_another_accelerator_of_the_same_machine(tmp_path):
    emulated, real = (qemu.command(kind, tmp_path, FACTS, {"initrd": True}) for kind in ("tcg", "kvm"))
    assert [word for word in real if word not in emulated] == ["kvm", "-cpu", "host"]
    assert qemu.Qemu("kvm").dials == qemu.Qemu().dials


@pytest.mark.parametrize("kind", [kind for kind, machine in qemu.MACHINES.items() if machine.secure])
def test_the_command_line_of_real_hardware_makes_the_guest_a_secure_one(kind, tmp_path):
    line = qemu.command(kind, tmp_path, FACTS, {"initrd": True})
    machine = line[line.index("-machine") + 1]
    objects = [line[at + 1] for at, word in enumerate(line) if word == "-object"]
    assert "confidential-guest-support=te0" in machine.split(",")
    assert any(each.split(",")[:2] == [kind, "id=te0"] for each in objects)
    assert line[line.index("-accel") + 1] == "kvm"
    assert sum("socket,id=" in word for word in line) == 3, "control, console and channel"


def test_the_policy_and_the_firmware_of_snp_are_on_its_line(tmp_path):
    line = " ".join(qemu.command("sev-snp-guest", tmp_path, FACTS | {"policy": "720896"}, {}))
    assert "policy=0xb0000" in line
    assert "kernel-hashes=on" in line
    assert "OVMF.amdsev.fd" in line
    assert "memory-backend=ram0" in line
    assert "policy=0x30000" in " ".join(qemu.command("sev-snp-guest", tmp_path, FACTS, {}))
