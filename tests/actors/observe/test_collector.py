"""What a scrape sees: the very counts of the ledger, from 0 on, under few and bounded labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from actors.observe import metrics as m
from actors.observe.collector import GUEST_STATES, Collector, expected_keys, registry_of
from actors.runtime.actor import Actor, open_runtime
from actors.runtime.link import Link
from actors.runtime.supervisor import Child, Restart, Running, Supervisor
from nestbed import __version__
from protocol.arch import load
from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.compose import Rig
from protocol.calls import Category
from protocol.hosting import Identity, Service
from protocol.ledger import FAMILIES, Ledger
from protocol.plan.scenario import PATHS
from protocol.tracking import PLANE_OF, SIZES, Book

Lived = Callable[[int], Rig]


@pytest.fixture
def collector() -> Collector:
    return Collector()


def value(collector: Collector, name: str, **labels: str) -> float | None:
    """One sample, as a registry gives it."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry.get_sample_value(name, labels)


def total(collector: Collector, name: str, **labels: str) -> float:
    """The sum over all series that have these labels."""
    return sum(
        sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def nested(depth: int = 1) -> tuple[Ledger, Book]:
    ledger = Ledger()
    for level in range(1, depth + 1):
        ledger.trap(level, "uvc")
        ledger.count(("te_calls", "create_config", Category.VM, "modified", str(level)))
    return ledger, Book(ledger, "l0")


# -- definitions ---------------------------------------------------------------------------


def test_every_family_is_defined_once() -> None:
    names = [family.name for family in m.FAMILIES]
    assert len(set(names)) == len(names)
    assert len(set(m.FAMILIES)) == len(m.FAMILIES)
    listed = {value for value in vars(m).values() if isinstance(value, m.Family)} | set(m.BY_LEDGER.values())
    assert listed == set(m.FAMILIES), "a family that nobody exports"


def test_every_family_of_the_ledger_is_exported_with_its_labels() -> None:
    assert set(m.BY_LEDGER) == set(FAMILIES)
    for family, (labels, _) in FAMILIES.items():
        assert m.BY_LEDGER[family].labels == ("arch", "path", *labels)


def test_names_are_as_prometheus_wants_them() -> None:
    for family in m.FAMILIES:
        assert re.fullmatch("[a-z][a-z0-9_]*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket")), family.name
        assert family.help[0].isupper() and not family.help.endswith("."), family.help
        assert all(re.fullmatch("[a-z][a-z_]*", label) for label in family.labels)
    named_for = {"bytes": "_bytes", "seconds": "_seconds", "ratio": "_ratio"}
    for family in m.FAMILIES:
        if family.unit in named_for:
            assert family.name.endswith(named_for[family.unit]), family.name


def test_no_label_names_one_of_many() -> None:
    for family in m.FAMILIES:
        assert not m.FORBIDDEN & set(family.labels), family.name


# -- machines ------------------------------------------------------------------------------


def test_a_scrape_sees_the_very_counts_of_the_ledger(collector: Collector, lived: Lived) -> None:
    rig = lived(0)
    collector.attach("s390", "direct", rig.ledger)
    for key, n in rig.ledger.counts().items():
        labels = dict(zip(m.BY_LEDGER[key[0]].labels, ("s390", "direct", *key[1:]), strict=True))
        assert value(collector, m.BY_LEDGER[key[0]].sample, **labels) == n, key
    assert total(collector, "nestbed_te_calls_total", call="convert_to_secure") == 3
    assert total(collector, "nestbed_te_calls_total") == rig.ledger.flat()["te_calls"]


def test_a_count_shows_at_the_next_scrape(collector: Collector) -> None:
    ledger, _ = nested()
    collector.attach("s390", "nested", ledger)
    before = total(collector, "nestbed_exits_total")
    ledger.trap(1, "uvc")
    assert total(collector, "nestbed_exits_total") == before + 1


def test_counters_are_there_at_zero_before_the_first_event(collector: Collector) -> None:
    collector.attach("s390", "nested", Ledger(), [Book(Ledger(), "l0")], depth=2)
    for row in CALLS.values():
        if row.for_host():
            for origin, treatment in (("0", "own"), ("1", row.treatment), ("2", row.treatment)):
                labels = {
                    "call": row.name,
                    "category": row.category,
                    "treatment": treatment,
                    "origin": origin,
                }
                sample = value(collector, "nestbed_te_calls_total", arch="s390", path="nested", **labels)
                assert sample == 0, labels
    for kind in SIZES:
        of = {"arch": "s390", "path": "nested", "kind": kind, "holder": "l0"}
        assert value(collector, "nestbed_tracking_records", plane=PLANE_OF[kind], **of) == 0
        assert value(collector, "nestbed_tracking_updates_total", op="create", **of) == 0
    assert total(collector, "nestbed_te_calls_total") == 0


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_what_was_expected_is_what_a_machine_counts(lived: Lived, depth: int) -> None:
    """Whatever comes from the call table must not appear out of nowhere in the middle of a run."""
    path = "nested" if depth else "direct"
    expected = set(expected_keys(load("s390").calls.values(), path, depth))
    counted = {tuple(map(str, key)) for key in lived(depth).ledger.counts()}
    derived = ("te_calls", "te_issued", "reflections", "lookups", "hosting")
    assert {key for key in counted if key[0] in derived} <= expected


def test_the_books_show_what_lives_and_its_model_size(collector: Collector) -> None:
    ledger, book = nested()
    book.add("secure_page", 5)
    book.drop("secure_page", 2)
    collector.attach("s390", "nested", ledger, [book])
    of = {"arch": "s390", "path": "nested", "kind": "secure_page", "holder": "l0"}
    assert value(collector, "nestbed_tracking_records", plane="page", **of) == 3
    assert value(collector, "nestbed_tracking_model_bytes", plane="page", **of) == 3 * SIZES["secure_page"]
    assert value(collector, "nestbed_tracking_updates_total", op="create", **of) == 5
    assert value(collector, "nestbed_tracking_updates_total", op="delete", **of) == 2


def test_books_may_come_later(collector: Collector) -> None:
    ledger = Ledger()
    books: list[Book] = []
    collector.attach("s390", "nested", ledger, books)
    assert total(collector, "nestbed_tracking_records") == 0
    books.append(Book(ledger, "l1"))
    books[0].add("lease")
    assert total(collector, "nestbed_tracking_records", holder="l1", kind="lease") == 1


def test_machines_of_equal_labels_are_summed_up(collector: Collector) -> None:
    for _ in range(2):
        ledger, book = nested()
        book.add("vm_map")
        collector.attach("s390", "nested", ledger, [book])
    assert total(collector, "nestbed_exits_total") == 2
    assert total(collector, "nestbed_tracking_records", kind="vm_map") == 2


def test_paths_are_told_apart(collector: Collector) -> None:
    for path in PATHS:
        collector.attach("s390", path, nested()[0])
    for path in PATHS:
        assert total(collector, "nestbed_exits_total", path=path) == 1


def test_a_machine_that_ended_leaves_its_counts_and_nothing_that_lives(collector: Collector) -> None:
    ledger, book = nested()
    book.add("child", 2)
    ledger.contention["busy"] += 4
    source = collector.attach("s390", "nested", ledger, [book])
    collector.detach(source)
    ledger.trap(1, "uvc")  # nobody looks any more
    assert total(collector, "nestbed_exits_total") == 1
    assert total(collector, "nestbed_contention_total") == 4
    assert total(collector, "nestbed_tracking_updates_total") == 2
    assert total(collector, "nestbed_tracking_records") == 0


def test_a_counter_never_falls_while_machines_come_and_go(collector: Collector) -> None:
    seen = [0.0]
    for _ in range(3):
        source = collector.attach("s390", "nested", nested()[0])
        seen.append(total(collector, "nestbed_exits_total"))
        collector.detach(source)
        seen.append(total(collector, "nestbed_exits_total"))
    assert seen == sorted(seen)
    assert seen[-1] == 3


def test_guests_are_counted_by_what_they_are_at(collector: Collector) -> None:
    states = {"ready": 3, "starting": 1, "dancing": 2}
    collector.attach("s390", "nested", Ledger(), guests=lambda: states)
    of = {"arch": "s390", "path": "nested"}
    assert value(collector, "nestbed_guests", state="ready", **of) == 3
    assert value(collector, "nestbed_guests", state="stopped", **of) == 0
    assert value(collector, "nestbed_guests", state="other", **of) == 2, "unknown states are no new labels"


@pytest.mark.parametrize(
    ("arch", "path", "error", "said"),
    [("s390", "bare", ValueError, "direct, nested, hosted, mixed"), ("vax", "nested", KeyError, "vax")],
)
def test_what_is_not_known_cannot_be_attached(
    collector: Collector, arch: str, path: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        collector.attach(arch, path, Ledger())
    assert total(collector, "nestbed_te_calls_total") == 0


# -- bounds --------------------------------------------------------------------------------

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,39}")
SMALL = re.compile(r"[0-9]")  # a level


def bounded(label: str, text: str) -> bool:
    if label in ("version", "python"):
        return re.fullmatch(r"[0-9A-Za-z.+-]+", text) is not None
    return bool(WORD.fullmatch(text) or SMALL.fullmatch(text))


def test_labels_of_real_runs_are_words_and_few(collector: Collector, lived: Lived) -> None:
    for depth, path in enumerate(("direct", "nested", "nested")):
        collector.attach("s390", path, lived(depth).ledger, depth=depth)
    collector.attach_service("s390", Service())
    series = 0
    for family in collector.collect():
        for sample in family.samples:
            series += 1
            for label, text in sample.labels.items():
                assert bounded(label, text), (family.name, label, text)
        assert len(family.samples) <= 4 * len(CALLS) + 64 * len(SIZES), family.name
    assert series < 2000


def test_a_family_with_too_many_series_sums_up_the_rest(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m, "SERIES_LIMIT", 10)
    ledger = Ledger()
    for n in range(25):
        ledger.count(("pages", f"op{n}"))
    collector.attach("s390", "direct", ledger)
    assert total(collector, "nestbed_pages_total") == 25, "no count is lost"
    assert value(collector, "nestbed_pages_total", arch="s390", path="direct", op="other") == 15
    assert value(collector, "nestbed_metrics_folded", family="nestbed_pages_total") == 15


# -- the wire ------------------------------------------------------------------------------


def test_the_text_is_what_a_scraper_reads(collector: Collector) -> None:
    ledger, book = nested()
    collector.attach("s390", "nested", ledger, [book])
    registry = registry_of(collector)
    text = generate_latest(registry).decode()
    assert "_created" not in text
    assert (
        'nestbed_exits_total{arch="s390",from_level="1",path="nested",reason="uvc",to="kernel"} 1.0' in text
    )
    families = list(parse_openmetrics(openmetrics.generate_latest(registry).decode()))
    names = {family.name for family in families}
    assert {f"{m.PREFIX}{family.name}" for family in m.FAMILIES} <= names
    assert "process_resident_memory_bytes" in names
    units = {family.name: family.unit for family in families}
    assert units["nestbed_bounce_bytes"] == units["nestbed_tracking_model_bytes"] == "bytes"


def test_two_registries_share_nothing() -> None:
    one, other = Collector(), Collector()
    one.attach("s390", "direct", nested()[0])
    assert registry_of(one) is not registry_of(other)
    assert total(other, "nestbed_exits_total") == 0


def test_it_says_what_it_is_and_when_the_scenario_began(collector: Collector) -> None:
    assert total(collector, "nestbed_build_info", version=__version__) == 1
    assert value(collector, "nestbed_scenario_start_timestamp_seconds") is None
    collector.scenario_started(1_790_000_000.5)
    assert value(collector, "nestbed_scenario_start_timestamp_seconds") == 1_790_000_000.5


# -- the broker ----------------------------------------------------------------------------


def answered(service: Service, who: Identity, message: str, body: dict[str, object]) -> dict[str, object]:
    frame = {"v": 1, "t": message, "rid": b"0123456789abcdef", "epoch": who.epoch, "b": body}
    step = service.handle(who, frame, 0)
    with pytest.raises(StopIteration) as end:
        next(step)
    reply: dict[str, object] = end.value.value
    return reply


def test_a_broker_shows_leases_refusals_and_requests_from_zero_on(collector: Collector) -> None:
    service, who = Service(), Identity(3, 1)
    collector.attach_service("s390", service)
    of = {"arch": "s390", "path": "hosted"}
    assert value(collector, "nestbed_host_lease_renewals_total", **of) == 0
    assert value(collector, "nestbed_host_refusals_total", error="NOT_FOUND", **of) == 0
    assert answered(service, who, "hello", {"versions": [1]})["t"] == "ok"
    assert answered(service, who, "describe", {"child": bytes(16)})["t"] == "err"
    assert total(collector, "nestbed_host_requests_total") == 2
    assert value(collector, "nestbed_host_lease_renewals_total", **of) == 1
    assert value(collector, "nestbed_host_refusals_total", error="NOT_FOUND", **of) == 1
    assert value(collector, "nestbed_host_idempotent_replays_total", result="conflict", **of) == 0
    assert {s: value(collector, "nestbed_guests", state=s, **of) for s in GUEST_STATES} == dict.fromkeys(
        GUEST_STATES, 0
    )


# -- the runtime ---------------------------------------------------------------------------


async def test_actors_show_what_waits_for_them(collector: Collector) -> None:
    async with open_runtime(lambda: 0.0) as runtime:
        actors = [Actor(f"l1-{n}", lambda message: message, runtime, capacity=8) for n in range(2)]
        collector.attach_actors("host", lambda: actors)
        assert value(collector, "nestbed_actors", role="host", state="live") == 2
        assert value(collector, "nestbed_mailbox_capacity", role="host") == 16
        for _ in range(4):
            actors[0]._put("later", lambda value, error: None, None)
        assert value(collector, "nestbed_mailbox_depth", role="host") == 4
        assert value(collector, "nestbed_mailbox_fullest_ratio", role="host") == 0.5
        await trio.testing.wait_all_tasks_blocked()
        assert value(collector, "nestbed_mailbox_depth", role="host") == 0
        assert value(collector, "nestbed_mailbox_peak_depth", role="host") == 4
        actors[1].stop()
        assert value(collector, "nestbed_actors", role="host", state="dead") == 1


async def test_links_show_frames_and_keep_their_counts_after_their_end(collector: Collector) -> None:
    one, other = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        link = Link(one)
        source = collector.attach_link("te", link)
        nursery.start_soon(link.run)
        nursery.start_soon(Link(other, lambda target, message, deliver: deliver(message, None)).run)
        assert await link.ask("te", ["hello"]) == ["hello"]
        nursery.cancel_scope.cancel()
    assert value(collector, "nestbed_links", peer="te") == 1
    assert value(collector, "nestbed_link_frames_total", peer="te", direction="sent") == 2
    assert value(collector, "nestbed_frame_errors_total", peer="te", reason="oversized") == 0
    collector.detach(source)
    assert value(collector, "nestbed_links", peer="te") is None
    assert value(collector, "nestbed_link_frames_total", peer="te", direction="received") == 2


async def test_supervisors_show_restarts_and_what_is_left_of_the_budget(
    collector: Collector, autojump_clock: trio.testing.MockClock
) -> None:
    async def fails_once(running: Running) -> None:
        running.started()
        if running.life == 1:
            raise ZeroDivisionError
        await trio.sleep_forever()

    supervisor = Supervisor([Child("l1", fails_once, Restart.TRANSIENT)], intensity=2, period_s=10)
    collector.attach_supervisor("host", supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.testing.wait_all_tasks_blocked()
        assert value(collector, "nestbed_supervisor_restarts_total", supervisor="host") == 1
        assert value(collector, "nestbed_supervisor_restarts_left", supervisor="host") == 1
        assert value(collector, "nestbed_supervised_children", supervisor="host") == 1
        await trio.sleep(11)
        assert value(collector, "nestbed_supervisor_restarts_left", supervisor="host") == 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "attach",
    [
        lambda c: c.attach_actors("l1-17", list),
        lambda c: c.attach_link("10.0.0.7", None),
        lambda c: c.attach_supervisor("of guest 4711", None),
    ],
)
def test_only_roles_are_labels(collector: Collector, attach: Callable[[Collector], object]) -> None:
    with pytest.raises(ValueError, match="there are"):
        attach(collector)


# -- the page ------------------------------------------------------------------------------


def test_the_page_lists_every_family_as_it_is() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/metrics.md").read_text()
    listed = re.findall(r"^\| `nestbed_.*$", page, re.MULTILINE)
    assert listed == [
        f"| `{family.sample}` | {family.kind.value} | {family.unit or '-'} "
        f"| {', '.join(family.labels) or '-'} | {family.help} |"
        for family in m.FAMILIES
    ]
    assert f"more than {m.SERIES_LIMIT} series" in page
