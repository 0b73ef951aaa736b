"""The emulated VSOCK keeps the rules that programs meet on the real one."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vsock.address import PRIVILEGED_PORTS, Address, parse_address
from protocol.vsock.endpoint import BUFFER, CONNECT_MS
from protocol.vsock.fabric import Fabric
from protocol.vsock.packet import HEADER, Op, Packet, Shut, unpack


@pytest.fixture
def fabric():
    made = Fabric()
    made.add(3)
    made.host.listen(5200)
    return made


def connect(fabric, source, target, port):
    connection = source.connect(target, port, 0)
    fabric.pump()
    return connection


def pair(fabric):
    """A guest's end and the host's end of one connection."""
    guest = connect(fabric, fabric._guests[3], 2, 5200)
    assert guest.connected
    return guest, fabric.host.accept(5200)


# Packets


def test_a_header_is_44_bytes_little_endian():
    packet = Packet(3, 2, 1024, 5200, Op.RW, 4096, 7, 0, b"abc")
    raw = packet.pack()
    assert HEADER.size == 44
    assert raw[:8] == struct.pack("<Q", 3)
    assert struct.unpack_from("<HH", raw, 28) == (1, 5)
    assert unpack(raw) == packet


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(43),
        Packet(3, 2, 1, 2, Op.RW, data=b"abc").pack()[:-1],
        struct.pack("<QQIIIHHIII", 1 << 32, 2, 1, 2, 0, 1, 1, 0, 0, 0),
        struct.pack("<QQIIIHHIII", 3, 2, 1, 2, 0, 1, 99, 0, 0, 0),
    ],
)
def test_what_is_no_packet_is_refused(raw):
    with pytest.raises(ValueError):
        unpack(raw)


# Who reaches whom


def test_the_peer_of_an_accepted_connection_is_what_the_fabric_says(fabric):
    _, host = pair(fabric)
    assert (host.peer_cid, host.port) == (3, 5200)


def test_a_forged_source_is_dropped_and_counted(fabric):
    fabric.add(4)
    fabric._guests[4].out.append(Packet(3, 2, 1024, 5200, Op.REQUEST))
    fabric.pump()
    assert fabric.dropped["forged"] == 1
    assert fabric.host.accept(5200) is None


def test_no_listener_is_a_reset_and_no_guest_is_silence(fabric):
    refused = connect(fabric, fabric._guests[3], 2, 5201)
    assert refused.error == errno.ECONNRESET
    silent = connect(fabric, fabric._guests[3], 9, 5200)
    fabric.tick(CONNECT_MS - 1)
    assert silent.error == 0
    fabric.tick(CONNECT_MS)
    assert silent.error == errno.ETIMEDOUT
    with pytest.raises(OSError):
        silent.send(b"x")


def test_siblings_talk_only_within_a_group():
    fabric = Fabric()
    for cid, groups in ((3, {"a"}), (4, {"a", "b"}), (5, {"b"})):
        fabric.add(cid, frozenset(groups)).listen(7)
    assert connect(fabric, fabric._guests[3], 4, 7).connected
    assert not connect(fabric, fabric._guests[3], 5, 7).connected
    assert fabric.dropped["not reachable"] == 1


@pytest.mark.parametrize("cid", [0, 1, 2, 0xFFFF_FFFF, 3])
def test_context_ids_of_guests_are_from_3_and_given_once(fabric, cid):
    with pytest.raises(ValueError):
        fabric.add(cid)


def test_low_ports_need_a_capability():
    guest = Fabric().add(3, privileged=False)
    with pytest.raises(OSError) as error:
        guest.listen(1023)
    assert error.value.errno == errno.EACCES
    guest.listen(1024)
    with pytest.raises(OSError) as error:
        guest.listen(1024)
    assert error.value.errno == errno.EADDRINUSE


def test_an_own_guest_wins_over_a_hosted_child_with_the_same_context_id(fabric):
    """The case of a guest host whose own L2 takes the context id of a hosted child: it reaches its own."""
    child = 0x4000_0000
    fabric.add(child, frozenset({"of 3"}))
    fabric._groups[3] = frozenset({"of 3"})
    assert fabric.reach(3, child) == "sibling"
    inner = Fabric()
    inner.add(child).listen(7)
    fabric.nest(3, inner)
    assert fabric.reach(3, child) == "own"
    source = fabric.socket(3, child)
    connection = source.connect(child, 7, 0)
    inner.pump()
    assert connection.connected
    assert source is inner.host
    inner.remove(child)
    assert fabric.reach(3, child) == "sibling", "it falls through to the host again"


# The life of a connection


def test_bytes_arrive_in_order_and_the_end_is_told(fabric):
    guest, host = pair(fabric)
    assert guest.send(b"hello ") == 6
    guest.send(b"world")
    guest.shut()
    fabric.pump()
    assert (host.receive(3), host.receive(100), host.receive(100)) == (b"hel", b"lo ", b"world")
    assert host.receive(100) == b""
    assert host.send(b"still") == 5, "half closed: the other direction goes on"
    fabric.pump()
    assert guest.receive(100) == b"still"
    with pytest.raises(OSError) as error:
        guest.send(b"x")
    assert error.value.errno == errno.EPIPE


def test_who_stops_reading_stops_the_sender_of_that_connection_only(fabric):
    first, host = pair(fabric)
    second, other = pair(fabric)
    sent = 0
    while n := first.send(b"x" * 60_000):
        sent += n
        fabric.pump()
    assert sent == BUFFER, "credit is used up"
    assert second.send(b"y") == 1, "and another connection has its own"
    fabric.pump()
    assert other.receive(1) == b"y"
    while host.receive(10_000) is not None:
        fabric.pump()
    fabric.pump()
    assert first.credit() > 0


def test_a_peer_that_sends_beyond_its_credit_is_reset(fabric):
    guest, host = pair(fabric)
    for _ in range(BUFFER // 65_536 + 1):
        fabric._guests[3].out.append(Packet(3, 2, guest.port, 5200, Op.RW, BUFFER, 0, 0, b"x" * 65_536))
    fabric.pump()
    assert host.error == errno.ECONNRESET
    assert guest.error == errno.ECONNRESET


def test_what_belongs_to_no_connection_is_reset(fabric):
    fabric._guests[3].out.append(Packet(3, 2, 4000, 5200, Op.RW, data=b"x"))
    fabric.pump()
    fabric._guests[3].out.append(Packet(3, 2, 4000, 5200, Op.REQUEST, type=2))
    fabric.pump()
    assert fabric.host.connections() == 0
    assert fabric.host.accept(5200) is None


def test_transport_reset_ends_connections_and_keeps_listeners(fabric):
    guest, host = pair(fabric)
    fabric._guests[3].listen(9000)
    fabric._guests[3].transport_reset()
    assert guest.error == errno.ECONNRESET
    host.send(b"x")
    fabric.pump()
    assert host.error == errno.ECONNRESET, "the guest answers what it does not know with a reset"
    assert connect(fabric, fabric.host, 3, 9000).connected


def test_transport_reset_during_the_handshake_leaves_nothing(fabric):
    guest = fabric._guests[3].connect(2, 5200, 0)
    fabric._guests[3].transport_reset()
    fabric.pump()
    assert guest.error == errno.ECONNRESET
    assert fabric.host.accept(5200) is None
    assert fabric.host.connections() == 0


def test_a_context_id_that_is_used_again_is_not_reached_by_an_old_connection(fabric):
    guest, host = pair(fabric)
    fabric.remove(3)
    assert host.error == errno.ECONNRESET
    again = fabric.add(3)
    with pytest.raises(OSError):
        host.send(b"for the former one")
    fabric.pump()
    assert again.connections() == 0
    assert guest.error == errno.ECONNRESET


def test_two_siblings_that_send_at_once_do_not_wait_for_each_other():
    fabric = Fabric()
    for cid in (3, 4):
        fabric.add(cid, frozenset({"g"})).listen(7)
    one = connect(fabric, fabric._guests[3], 4, 7)
    other = fabric._guests[4].accept(7)
    for end in (one, other):
        while end.send(b"x" * 65_536):
            pass
    fabric.pump()
    assert (one.waiting, other.waiting) == (BUFFER, BUFFER)
    for end in (one, other):
        while end.receive(65_536) is not None:
            pass
    fabric.pump()
    assert one.credit() > 0 and other.credit() > 0


@settings(max_examples=50)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 200_000)), min_size=1, max_size=40),
)
def test_whatever_is_sent_and_read_arrives_once_and_in_order(pieces):
    fabric = Fabric()
    fabric.add(3)
    fabric.host.listen(5200)
    guest, host = pair(fabric)
    sent, got, counter = bytearray(), bytearray(), 0
    for send, n in pieces:
        if send:
            data = bytes((counter + i) % 251 for i in range(n))
            accepted = guest.send(data)
            sent += data[:accepted]
            counter += accepted
        else:
            got += host.receive(n) or b""
        fabric.pump()
        assert 0 <= guest.credit() <= BUFFER
        assert host.waiting <= BUFFER
    while (data := host.receive(65_536)) is not None:
        got += data
        fabric.pump()
    assert got == sent


def test_credit_counts_wrap(fabric):
    guest, host = pair(fabric)
    guest.tx_cnt = guest.peer_fwd_cnt = host.fwd_cnt = host.told_fwd_cnt = 0xFFFF_FFF0
    total = 0
    for _ in range(10):
        total += guest.send(b"z" * 1000)
        fabric.pump()
        while host.receive(1000) is not None:
            pass
    assert total == 10_000
    assert guest.tx_cnt == (0xFFFF_FFF0 + 10_000) & 0xFFFF_FFFF


def test_a_shutdown_tells_how(fabric):
    guest, host = pair(fabric)
    host.shut(Shut.RECEIVE)
    fabric.pump()
    with pytest.raises(OSError) as error:
        guest.send(b"x")
    assert error.value.errno == errno.EPIPE


# Addresses


@pytest.mark.parametrize(
    "text", ["vsock:2:5200", "hybrid:/a:b/c:7", "unix:/run/3.vsock_5200", "tcp:::1:443", "memory:3:1"]
)
def test_an_address_says_the_same_again(text):
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "2:5200", "vsock:2", "vsock:x:1", "vsock:2:4294967296", "tcp:h:0", "tcp:h:65536", "unix:",
     "hybrid:" + "x" * 108 + ":1", "unix:" + "x" * 108, "vsock:4294967296:1"],
)  # fmt: skip
def test_what_is_no_address_is_told_what_is(text):
    with pytest.raises(ValueError, match=":"):
        parse_address(text)


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "host\0"], ids=["empty label", "long label", "zero"])
def test_what_no_host_can_be_called_is_no_address(name):
    with pytest.raises(ValueError, match="is no name of a host"):
        parse_address(f"tcp:{name}:443")


def test_the_parts_of_an_address():
    assert parse_address("hybrid:/a:b/c:7") == Address("hybrid", "/a:b/c", 7)
    assert parse_address("vsock:2:5200").cid == 2


def test_nothing_is_sent_before_the_peer_has_answered(fabric):
    guest = fabric._guests[3].connect(2, 5200, 0)
    with pytest.raises(OSError) as error:
        guest.send(b"early")
    assert error.value.errno == errno.ENOTCONN
    guest.shut()
    fabric.pump()
    assert fabric.host.accept(5200).receive(1) is None, "there was nothing to end yet"


def test_no_bytes_are_no_packet(fabric):
    guest, _ = pair(fabric)
    assert guest.send(b"") == 0
    assert fabric.pump() == 0


def test_what_arrived_before_a_failure_is_read_first(fabric):
    guest, host = pair(fabric)
    guest.send(b"last words")
    fabric.pump()
    fabric.remove(3)
    assert host.receive(100) == b"last words"
    with pytest.raises(OSError) as error:
        host.receive(100)
    assert error.value.errno == errno.ECONNRESET


def test_the_end_is_told_once(fabric):
    guest, host = pair(fabric)
    guest.shut()
    guest.shut()
    assert fabric.pump() == 1
    guest.shut(Shut.RECEIVE)
    assert fabric.pump() == 1
    assert host.peer_shut == Shut.SEND | Shut.RECEIVE


def test_a_closed_connection_is_reset_for_its_peer_and_gone_here(fabric):
    guest, host = pair(fabric)
    guest.close()
    guest.close()
    assert fabric.pump() == 1
    assert host.error == errno.ECONNRESET
    assert fabric.host.connections() == fabric._guests[3].connections() == 0
    with pytest.raises(OSError):
        guest.send(b"x")


def test_who_waits_at_a_listener_that_ends_is_reset_and_who_was_taken_is_not(fabric):
    taken, host = pair(fabric)
    waiting = connect(fabric, fabric._guests[3], 2, 5200)
    fabric.host.stop_listening(5200)
    fabric.pump()
    assert waiting.error == errno.ECONNRESET
    assert connect(fabric, fabric._guests[3], 2, 5200).error == errno.ECONNRESET
    assert taken.send(b"on") == 2
    fabric.pump()
    assert host.receive(2) == b"on"
    fabric.host.stop_listening(5200)
    fabric.host.listen(5200)


def test_after_a_migration_a_guest_may_have_another_context_id():
    guest = Fabric().add(3)
    guest.listen(7)
    guest.transport_reset(9)
    guest.connect(2, 5200, 0)
    assert guest.out[-1].src_cid == 9


def test_the_end_of_one_guest_resets_nobody_elses_connections(fabric):
    _, host = pair(fabric)
    other = fabric.add(4)
    kept = connect(fabric, other, 2, 5200)
    mine = fabric.host.accept(5200)
    fabric.remove(3)
    assert (host.error, mine.error, kept.error) == (errno.ECONNRESET, 0, 0)


def test_a_port_in_use_is_not_given_to_the_next_connection(fabric):
    guest = fabric._guests[3]
    guest.listen(PRIVILEGED_PORTS)
    guest.listen(PRIVILEGED_PORTS + 1)
    assert connect(fabric, guest, 2, 5200).port == PRIVILEGED_PORTS + 2


def test_a_host_that_connects_to_no_guest_hears_nothing(fabric):
    silent = connect(fabric, fabric.host, 9, 7)
    assert fabric.dropped["no guest"] == 1
    fabric.tick(CONNECT_MS)
    assert silent.error == errno.ETIMEDOUT
