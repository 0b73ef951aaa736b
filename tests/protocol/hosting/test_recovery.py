"""The service dies at any moment and comes back: nothing is lost, orphaned or done twice."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import OutcomeUnknown
from protocol.hosting import CountingBook, Identity, Limits, Service, SimulatedDisk
from protocol.hosting.idempotency import Key
from protocol.hosting.journal import DamagedJournal, Fact, Gathering, Intent, MemoryJournal, Row
from protocol.hosting.machine import (
    Await,
    CreateGuest,
    DestroyGuest,
    Found,
    Inventory,
    LoadGuest,
    StartGuest,
    StopGuest,
    TeError,
    Vanished,
)
from protocol.hosting.recovery import Recovery

IMAGE = b"an image"
SPEC = {"image": hashlib.sha256(IMAGE).digest(), "vcpus": 1, "memory_mib": 64}
WHO = Identity(3, 1)


class Machine:
    """Guests that outlive the service, each in a process of its own, say."""

    def __init__(self) -> None:
        self.guests: dict[bytes, str] = {}
        self.ended: dict[bytes, int] = {}
        self.asked: list[Any] = []
        self.refuses: dict[type, int] = {}

    def perform(self, effect: Any) -> Any:
        self.asked.append(effect)
        if isinstance(effect, Inventory):
            return {
                name: Found(state == "running", self.ended.get(name)) for name, state in self.guests.items()
            }
        if self.refuses.get(type(effect)):
            self.refuses[type(effect)] -= 1
            return TeError("any", 1)
        if isinstance(effect, CreateGuest):
            assert effect.child not in self.guests, "the same guest twice"
            self.guests[effect.child] = "created"
            return None
        if effect.child not in self.guests:
            return Vanished()
        if isinstance(effect, DestroyGuest):
            del self.guests[effect.child]
        elif isinstance(effect, StartGuest):
            self.guests[effect.child] = "running"
        elif isinstance(effect, StopGuest):
            self.guests[effect.child] = "stopped"
        return None


class Life:
    """One life of the service over a disk. What leaves it waits until the disk is flushed, as in a broker."""

    def __init__(
        self, machine: Machine, disk: SimulatedDisk, now_ms: int = 1_000, limits: Limits | None = None
    ) -> None:
        self.machine, self.disk, self.now_ms = machine, disk, now_ms
        self.book = CountingBook()
        self.service = Service(limits or Limits(), disk.journal, seed=1, book=self.book)
        self.rids = 0

    def recover(self) -> Recovery:
        return self.drive(self.service.recover(self.disk.rows(), self.now_ms))

    def drive(self, step: Any, stop_after: int | None = None) -> Any:
        """Run `step`; with `stop_after` n the life ends when the machine has done the n-th effect."""
        answer: Any = None
        done = 0
        while True:
            try:
                effect = step.send(answer)
            except StopIteration as stop:
                self.disk.flush()
                self.check()
                return stop.value
            self.disk.flush()
            if isinstance(effect, Await):
                self.tick()  # as a broker does meanwhile: what a former life began is finished there
                self.now_ms = effect.until_ms
                answer = self.now_ms
                continue
            if stop_after == 0:
                return None
            answer = self.machine.perform(effect)
            done += 1
            if done == stop_after:
                return None

    def handle(self, kind: str, key: bytes | None = None, **body: Any) -> Any:
        self.rids += 1
        rid = self.rids.to_bytes(16, "big")
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": 1, "dl": None, "key": key, "b": body}
        return self.service.handle(WHO, frame, self.now_ms)

    def ask(self, kind: str, key: bytes | None = None, **body: Any) -> dict[str, Any]:
        reply = self.drive(self.handle(kind, key, **body))
        return reply["b"] | {"t": reply["t"]}

    def hello(self) -> None:
        self.ask("hello", versions=[1])
        self.ask("image.put", digest=SPEC["image"], size=len(IMAGE), offset=0, data=IMAGE)

    def crash(self) -> Life:
        """The next life, one minute later, over what was committed."""
        return Life(self.machine, self.disk.crash(), self.now_ms + 60_000)

    def check(self) -> None:
        """What was counted is what is there."""
        held = {kind: n for kind, n in self.service.records().items() if n}
        assert held == {kind: n for kind, n in self.book.live.items() if n}

    def tick(self) -> None:
        for step in self.service.tick(self.now_ms):
            self.drive(step)

    def audit(self) -> list[Any]:
        return self.drive(self.service.audit())


@pytest.fixture
def life() -> Life:
    made = Life(Machine(), SimulatedDisk())
    made.hello()
    return made


def key(n: int) -> bytes:
    return Key(1, n).packed()


def test_a_ready_child_is_adopted_and_its_key_answers_the_same(life):
    started = life.ask("start", key(1), spec=SPEC)
    again = life.crash()
    assert again.recover() == Recovery(adopted=1)
    assert again.ask("describe", child=started["child"])["state"] == "READY"
    replayed = again.ask("start", key(1), spec=SPEC)
    assert (replayed["child"], replayed["cid"], replayed["replayed"]) == (
        started["child"],
        started["cid"],
        True,
    )
    assert again.audit() == []
    assert again.ask("destroy", child=started["child"])["state"] == "RELEASED"
    assert again.machine.guests == {}


def test_children_of_one_image_are_charged_for_it_once_after_a_restart(life):
    children = [life.ask("start", key(n), spec=SPEC)["child"] for n in range(1, 4)]
    again = life.crash()
    again.recover()
    assert again.ask("quota.get")["images"]["charged"] == 1
    for child in children:
        again.ask("destroy", child=child)
    assert again.ask("quota.get")["images"]["charged"] == 0


@pytest.mark.parametrize(
    ("effects", "performed", "ends"),
    [
        (0, None, "rolled_back"),  # written, nothing asked of the machine
        (1, CreateGuest, "rolled_back"),
        (2, LoadGuest, "rolled_back"),
        (3, StartGuest, "resumed"),
    ],
)
def test_a_start_that_the_death_cut_short_is_finished_or_rolled_back(life, effects, performed, ends):
    life.drive(life.handle("start", key(1), spec=SPEC), stop_after=effects)
    if performed is not None:
        assert isinstance(life.machine.asked[-1], performed)
    again = life.crash()
    assert again.recover() == Recovery(**{ends: 1})
    again.tick()
    assert again.audit() == []
    assert len(again.machine.guests) == (ends == "resumed")
    if ends == "rolled_back":
        (record,) = again.ask("list", exited=True)["children"]
        assert record["failure"]["name"] == "HOST_RESTARTED"
        again.hello()
    answer = again.ask("start", key(1), spec=SPEC)
    assert (answer["state"], answer["replayed"]) == ("READY", ends == "resumed")
    assert len(again.machine.guests) == 1


@pytest.mark.parametrize("how", ["destroy", "gone"])
def test_a_child_that_still_boots_after_a_restart_can_be_ended_at_once(life, how):
    life.drive(life.handle("start", key(1), spec=SPEC), stop_after=3)
    again = life.crash()
    again.recover()
    (child,) = again.machine.guests
    if how == "destroy":
        assert again.ask("destroy", child=child)["state"] == "RELEASED"
    else:
        again.drive(again.service.requester_gone(3, 1, again.now_ms))
    assert again.machine.guests == {}
    again.tick()
    assert again.audit() == []


def test_a_reserved_child_is_rolled_back_because_its_image_is_gone(life):
    life.ask("start", key(1), spec=SPEC, mode="reserve")
    again = life.crash()
    assert again.recover() == Recovery(rolled_back=1)
    assert again.ask("quota.get")["children"]["charged"] == 0


@pytest.mark.parametrize("effects", [0, 1])
def test_a_stop_that_the_death_cut_short_is_finished(life, effects):
    child = life.ask("start", spec=SPEC)["child"]
    life.drive(life.handle("stop", child=child), stop_after=effects)
    again = life.crash()
    assert again.recover() == Recovery(finished=1)
    assert again.ask("describe", child=child)["state"] == "STOPPED"
    assert again.machine.guests == {child: "stopped"}


@pytest.mark.parametrize("effects", [0, 1, 2])
def test_a_destroy_that_the_death_cut_short_is_finished(life, effects):
    child = life.ask("start", key(1), spec=SPEC)["child"]
    life.drive(life.handle("destroy", child=child), stop_after=effects)
    again = life.crash()
    assert again.recover() == Recovery(finished=1)
    assert again.machine.guests == {}
    assert again.ask("describe", child=child)["state"] == "RELEASED"
    assert again.ask("destroy", child=child)["state"] == "RELEASED"


def test_a_stopped_child_stays_stopped_and_a_failed_one_is_tried_again(life):
    stopped = life.ask("start", spec=SPEC)["child"]
    life.ask("stop", child=stopped)
    life.machine.refuses = {LoadGuest: 1, DestroyGuest: 2}
    failed = life.ask("start", spec=SPEC)
    assert failed["name"] == "TE_ERROR"
    again = life.crash()
    assert again.recover() == Recovery(adopted=1)
    assert sorted(again.machine.guests.values()) == ["created", "stopped"]
    assert {child["state"] for child in again.ask("list")["children"]} == {"STOPPED", "FAILED"}
    again.now_ms += 60_000
    for step in again.service.tick(again.now_ms):
        again.drive(step)
    assert again.audit() == []


def test_a_power_failure_of_the_machine_loses_its_guests_and_says_so(life):
    child = life.ask("start", key(1), spec=SPEC)["child"]
    life.machine.guests.clear()
    again = life.crash()
    assert again.recover() == Recovery(lost=1)
    assert again.ask("describe", child=child)["state"] == "LOST"
    assert again.audit() == []
    assert again.ask("destroy", child=child)["state"] == "RELEASED"
    assert again.ask("quota.get")["children"]["charged"] == 0


def test_a_guest_that_ended_meanwhile_is_stopped_with_its_exit(life):
    child = life.ask("start", spec=SPEC)["child"]
    life.machine.guests[child] = "ended"
    life.machine.ended[child] = 7
    again = life.crash()
    again.recover()
    told = again.ask("describe", child=child)
    assert (told["state"], told["exit"]) == ("STOPPED", 7)


def test_a_guest_without_a_record_is_ended_however_often_the_machine_refuses(life):
    life.machine.guests[b"s" * 16] = "running"
    life.machine.refuses = {DestroyGuest: 2}
    again = life.crash()
    assert again.recover() == Recovery(strays=1)
    assert again.audit() == [{"kind": "no_owner", "child": b"s" * 16}]
    for _ in range(2):
        for step in again.service.tick(again.now_ms):
            again.drive(step)
    assert again.audit() == []


def test_a_start_that_goes_on_after_a_restart_and_fails_is_told_to_whoever_asks(life):
    life.drive(life.handle("start", key(1), spec=SPEC), stop_after=3)
    again = life.crash()
    again.recover()
    again.machine.refuses = {StartGuest: 1}
    again.tick()
    assert again.machine.guests == {}
    assert again.audit() == []
    again.hello()
    assert again.ask("start", key(1), spec=SPEC)["replayed"] is False, "nobody was told of a child"


def test_a_stop_that_the_machine_refuses_after_a_restart_is_left_to_the_owner(life):
    child = life.ask("start", spec=SPEC)["child"]
    life.drive(life.handle("stop", child=child), stop_after=0)
    life.machine.refuses = {StopGuest: 1}
    again = life.crash()
    assert again.recover() == Recovery()
    assert again.ask("describe", child=child)["state"] == "STOPPING"
    assert again.ask("stop", child=child)["state"] == "STOPPED"


def test_a_stray_whose_end_nobody_answered_is_tried_again(life):
    life.machine.guests[b"s" * 16] = "running"
    again = life.crash()
    step = again.service.recover(again.disk.rows(), again.now_ms)
    next(step)
    assert isinstance(step.send(again.machine.perform(Inventory())), DestroyGuest)
    with pytest.raises(StopIteration) as stop:
        step.throw(OutcomeUnknown("the link to the machine"))
    assert stop.value.value == Recovery(strays=1)
    assert again.service.statistics().strays == 1
    again.tick()
    assert (again.machine.guests, again.service.statistics().strays) == ({}, 0)


def test_an_audit_names_records_whose_guest_is_gone(life):
    child = life.ask("start", spec=SPEC)["child"]
    life.machine.guests.clear()
    assert life.audit() == [{"kind": "no_vm", "child": child}]


def test_what_hangs_on_a_boot_without_a_row_is_let_go(life):
    live = life.ask("start", key(1), spec=SPEC)["child"]
    dead = life.ask("start", spec=SPEC)["child"]
    life.ask("destroy", child=dead)
    rows = [row for row in life.disk.rows() if row.kind != "requester"]
    assert sorted(row.kind for row in rows) == ["child", "child", "host", "key"]
    again = Life(life.machine, SimulatedDisk(rows), life.now_ms)
    again.recover()
    assert again.machine.guests == {}, "nobody could ask for the guest"
    again.hello()
    for child in (live, dead):
        assert again.ask("describe", child=child)["name"] == "NOT_FOUND"
    assert again.ask("start", key(1), spec=SPEC)["replayed"] is False


def test_pages_that_were_deposited_are_there_in_the_next_life():
    limits = Limits(profile="l1vh")
    life = Life(Machine(), SimulatedDisk(), limits=limits)
    life.hello()
    life.ask("memory.deposit", pages=1000)
    again = Life(life.machine, life.disk.crash(), limits=limits)
    again.recover()
    assert again.ask("quota.get")["donated_pages"]["limit"] == 1000


def test_a_row_that_is_no_map_is_told_of_and_starts_no_life(life):
    broken = next(life.disk.rows())._replace(data=b"\x93\1\2\3")
    with pytest.raises(ValueError, match="a row of the journal is a map"):
        Life(Machine(), SimulatedDisk()).drive(life.service.recover([broken], 0))


def test_a_row_that_is_no_msgpack_is_told_of_and_starts_no_life(life):
    broken = next(life.disk.rows())._replace(data=b"\xc1")
    with pytest.raises(DamagedJournal, match="a row of the journal is no msgpack"):
        Life(Machine(), SimulatedDisk()).drive(life.service.recover([broken], 0))


def test_exit_records_survive_until_they_are_acknowledged(life):
    child = life.ask("start", key(1), spec=SPEC)["child"]
    life.ask("destroy", child=child)
    again = life.crash()
    again.recover()
    assert again.ask("describe", child=child)["reason"] == "request"
    assert again.ask("start", key(1), spec=SPEC)["state"] == "RELEASED"
    again.ask("ack_exit", child=child)
    last = again.crash()
    last.recover()
    assert last.ask("describe", child=child)["name"] == "NOT_FOUND"
    assert last.ask("start", key(1), spec=SPEC)["child"] == child


def test_numbers_of_events_go_on_and_what_is_gone_is_a_gap(life):
    child = life.ask("start", spec=SPEC)["child"]
    again = life.crash()
    again.recover()
    assert again.ask("watch", since=4)["seq"] == 4
    assert again.ask("watch", since=2)["detail"] == {"first": 5, "last": 4}
    again.ask("destroy", child=child)
    again.ask("ack_exit", child=child)
    last = again.crash()
    last.recover()
    assert last.ask("watch", since=7)["seq"] == 7


def test_a_watermark_survives(life):
    for n in (1, 2):
        life.ask("destroy", child=life.ask("start", key(n), spec=SPEC)["child"])
    for _ in range(31):
        life.now_ms += 20_000
        life.ask("lease.renew")
        for step in life.service.tick(life.now_ms):
            life.drive(step)
    again = life.crash()
    again.recover()
    error = again.ask("start", key(2), spec=SPEC)
    assert (error["name"], error["detail"]) == ("KEY_EXPIRED", {"watermark": key(2)})
    again.hello()
    assert again.ask("start", key(3), spec=SPEC)["state"] == "READY"


def test_cids_that_were_given_before_rest_first(life):
    first = life.ask("start", spec=SPEC)
    second = life.ask("start", spec=SPEC)
    life.ask("destroy", child=first["child"])
    again = life.crash()
    again.recover()
    again.hello()
    third = again.ask("start", spec=SPEC)
    assert third["cid"] not in {first["cid"], second["cid"]}
    assert third["child"] not in {first["child"], second["child"]}


def test_a_boot_that_was_over_stays_over(life):
    life.ask("start", spec=SPEC)
    life.drive(life.service.requester_gone(3, 1, life.now_ms))
    again = life.crash()
    assert again.recover() == Recovery()
    assert again.ask("hello", versions=[1])["name"] == "STALE_EPOCH"


@pytest.mark.parametrize("effects", [0, 1])
def test_the_death_of_the_owner_is_finished_after_the_death_of_the_service(life, effects):
    life.ask("start", spec=SPEC)
    life.drive(life.service.requester_gone(3, 1, life.now_ms), stop_after=effects)
    again = life.crash()
    again.recover()
    assert again.machine.guests == {}
    assert not any(again.service.records().values())


def test_a_lingering_child_keeps_what_is_left_of_its_grace(life):
    child = life.ask("start", spec=SPEC | {"on_owner_loss": "linger", "linger_s": 100})["child"]
    life.drive(life.service.requester_gone(3, 1, life.now_ms))
    again = life.crash()
    again.recover()
    assert again.machine.guests == {child: "running"}
    again.now_ms += 40_001  # one minute went by during the restart
    for step in again.service.tick(again.now_ms):
        again.drive(step)
    assert again.machine.guests == {}
    assert not any(again.service.records().values())


# Any story, any moment


@settings(max_examples=60, deadline=None)
@given(
    story=st.lists(
        st.tuples(st.sampled_from(["start", "stop", "destroy", "ack"]), st.integers(1, 3), st.integers(0, 6)),
        min_size=1,
        max_size=12,
    )
)
def test_whenever_it_dies_nothing_is_lost_and_nothing_done_twice(story):
    """Each step may be cut short by the death of the service, after so many effects."""
    life = Life(Machine(), SimulatedDisk())
    life.hello()
    children: dict[int, bytes] = {}
    for word, n, effects in story:
        child = children.get(n, bytes(16))
        if word == "start":
            step = life.handle("start", key(n), spec=SPEC)
        else:
            step = life.handle({"ack": "ack_exit"}.get(word, word), child=child)
        reply = life.drive(step, stop_after=effects if effects < 4 else None)
        if reply is not None and reply["t"] == "ok" and word == "start":
            if n in children and reply["b"]["replayed"]:
                assert reply["b"]["child"] == children[n], "every retry got the same child"
            children[n] = reply["b"]["child"]
        if reply is None:
            life = life.crash()
            life.recover()
            if n % 2:  # else somebody comes before the first tick
                life.tick()
            life.hello()
        assert life.audit() == []
    for each in life.ask("list")["children"]:
        assert life.ask("destroy", child=each["child"])["state"] == "RELEASED"
    assert life.machine.guests == {}


# The journal itself


def test_rows_take_the_place_of_older_ones_and_nothing_leaves_before_they_are_durable():
    journal, called = Gathering(), []
    intent = Intent(b"c" * 16, 3, 1, "RESERVED", "start", 0)
    assert journal.append(intent) == 0
    assert journal.append(Intent(b"c" * 16, 3, 1, "LOADING", "start", 0)) == 1
    journal.after(lambda: called.append("first"))
    assert journal.pending
    assert [row.kind for row in journal.take()] == ["child"]
    journal.append(Fact("host", b"", {"made": 1}))
    journal.after(lambda: called.append("second"))
    assert called == []
    journal.committed()
    assert called == ["first"]
    assert len(journal.take()) == 1
    journal.committed()
    assert called == ["first", "second"]
    assert not journal.pending
    assert journal.append(Intent(b"c" * 16, 3, 1, "RELEASED", "request", 0)) == 2


def test_a_journal_rings_whenever_there_is_something_to_take():
    rung = []
    journal = Gathering(ring=lambda: rung.append(len(rung)))
    for n in range(3):
        journal.append(Fact("host", b"", {"made": n}))
    assert rung == [0, 1, 2]
    assert len(journal.take()) == 1


def test_what_is_durable_already_is_not_waited_for():
    called = []
    journal = Gathering()
    journal.after(lambda: called.append("at once"))
    assert called == ["at once"]


@pytest.mark.parametrize("row", [(1, b"c", b""), ("child", "c", b""), ("child", b"c", None)])
def test_a_disk_that_holds_something_else_than_rows_starts_no_life(row):
    with pytest.raises(DamagedJournal, match="a row of the journal is a kind, and bytes"):
        Gathering().found([Row(*row)])


def test_what_only_this_process_knows_is_as_durable_as_it_ever_gets():
    called = []
    journal = MemoryJournal()
    journal.append(Intent(b"c" * 16, 3, 1, "RESERVED", "start", 0))
    journal.after(lambda: called.append("at once"))
    assert called == ["at once"] and not journal.pending


def test_what_was_not_committed_is_gone():
    disk = SimulatedDisk()
    disk.journal.append(Fact("host", b"", {"made": 1}))
    disk.flush()
    disk.journal.append(Fact("host", b"", {"made": 2}))
    assert [row.data for row in disk.crash().rows()] == [row.data for row in disk.rows()]
    with pytest.raises(ValueError, match="kind"):
        Life(Machine(), SimulatedDisk([*disk.rows(), disk.rows().__next__()._replace(kind="odd")])).recover()


@pytest.mark.parametrize("effects", range(4))
def test_a_start_cut_short_whose_owner_is_gone_is_ended_by_the_next_life(life, effects):
    """Found by `nestbed soak`: a doomed child that was half built stopped every later life."""
    life.drive(life.handle("start", key(1), spec=SPEC), stop_after=effects)
    life.drive(life.service.requester_gone(WHO.cid, WHO.epoch, life.now_ms), stop_after=0)
    again = life.crash()
    again.recover()
    assert again.machine.guests == {}
    assert again.audit() == []


def test_who_asks_again_before_the_first_tick_waits_for_the_start_that_was_cut_short(life):
    life.drive(life.handle("start", key(1), spec=SPEC), stop_after=3)
    again = life.crash()
    again.recover()
    again.hello()
    asked = again.ask("start", key(1), spec=SPEC)
    assert (asked["state"], asked["replayed"]) == ("READY", True)


@pytest.mark.parametrize("effects", range(4))
def test_a_machine_that_loses_power_while_the_children_of_an_owner_that_is_gone_are_ended(life, effects):
    """Found by `nestbed soak`: a child that was still READY stopped every later life."""
    for number in (1, 2):
        life.ask("start", key(number), spec=SPEC)
    life.drive(life.service.requester_gone(WHO.cid, WHO.epoch, life.now_ms), stop_after=effects)
    life.machine.guests.clear()
    again = life.crash()
    again.recover()
    assert again.audit() == []
    assert not any(again.service.records().values())
