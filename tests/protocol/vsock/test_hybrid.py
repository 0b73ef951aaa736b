"""The handshake of the hybrid scheme, byte for byte."""

from __future__ import annotations

import pytest

from protocol.vsock import hybrid


@pytest.mark.parametrize(
    ("line", "port"),
    [
        (b"CONNECT 0\n", 0),
        (b"CONNECT 52\n", 52),
        (b"connect 4294967295\n", 4294967295),
        (b"CONNECT  7 more words\n", 7),
    ],
)
def test_a_line_that_firecracker_takes_is_taken(line, port):
    read, at = b"", 0
    while n := hybrid.wanted(read):
        read += line[at : at + n]
        at += n
    assert read == line, "and not a byte more was read"
    assert hybrid.read_connect(read) == port


@pytest.mark.parametrize(
    "line", [b"CONNECT x\n", b"CONNECT 4294967296\n", b"HELLO 52 \n", b"CONNECT   \n", b"CONNECT -1\n"]
)
def test_any_other_line_is_refused(line):
    with pytest.raises(ValueError):
        hybrid.read_connect(line)


def test_ten_bytes_are_read_at_once_then_one_by_one_up_to_32():
    assert hybrid.wanted(b"") == 10
    assert hybrid.wanted(b"CONNE") == 5
    assert hybrid.wanted(b"CONNECT 12") == 1
    assert hybrid.wanted(b"CONNECT 12\n") == 0
    with pytest.raises(ValueError, match="32"):
        hybrid.wanted(b"C" * 32)


def test_host_ports_go_round_and_are_unique_while_in_use():
    ports = hybrid.HostPorts()
    first = ports.take()
    assert first == 1 << 30
    ports.give_back(first)
    assert ports.take() == first + 1, "not the same one again soon"
    taken = [ports.take() for _ in range(hybrid.CONNECTIONS - 1)]
    assert len(set(taken)) == len(taken)
    assert ports.take() is None
    ports.give_back(taken[0])
    assert ports.take() is not None


def test_a_port_that_is_still_in_use_is_passed_over_in_the_next_round(monkeypatch):
    monkeypatch.setattr(hybrid, "HOST_PORTS", (10, 13))
    ports = hybrid.HostPorts()
    assert [ports.take() for _ in range(3)] == [10, 11, 12]
    ports.give_back(11)
    assert ports.take() == 11


def test_both_lines_are_read_by_the_other_side():
    assert hybrid.read_connect(hybrid.connect_line(5200)) == 5200
    assert hybrid.read_ok(hybrid.ok_line(1 << 30)) == 1 << 30
    for wrong in (b"OK\n", b"OK x\n", b"ok 1\n", b"NO 1\n"):
        with pytest.raises(ValueError):
            hybrid.read_ok(wrong)
