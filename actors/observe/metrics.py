"""Every family of metrics, defined once: name, help, unit, labels.

What the ledger counts is derived from its own table, so a family that is added there is exported without a
line here. Counts are of the emulated machine; nothing here is a time of hardware, and modelled time is no
metric.

Labels are few and bounded. Never a label: a handle, an address, a CID, the id of a guest or of a host, a
trace. A run, or one of several equal processes, is told apart by what the scraper adds to its target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from protocol.ledger import FAMILIES as LEDGER

PREFIX = "nestbed_"
MACHINE = ("arch", "path")  # labels of whatever belongs to one emulated machine
ROLES = ("te", "kvm", "host", "guest", "broker", "load")
SUPERVISORS = ("root", *ROLES)
SERIES_LIMIT = 4096  # of one family; what comes beyond is summed up under OTHER
OTHER = "other"
FORBIDDEN = frozenset({"handle", "address", "cid", "guest", "host", "child", "l1", "id", "trace_id", "frame"})


class Kind(Enum):
    """What Prometheus may do with the value."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Family:
    """One family. `name` is without the prefix, and without `_total` for a counter."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def sample(self) -> str:
        """The name of its samples, as a query says it."""
        return f"{PREFIX}{self.name}{'_total' if self.kind is Kind.COUNTER else ''}"

    def metric(self) -> CounterMetricFamily | GaugeMetricFamily:
        """An empty family for one scrape."""
        # The client takes a unit only where the name ends with it, as OpenMetrics wants it.
        unit = self.unit if self.name.endswith(f"_{self.unit}") else ""
        text = self.help if unit or not self.unit else f"{self.help} ({self.unit})"
        of = CounterMetricFamily if self.kind is Kind.COUNTER else GaugeMetricFamily
        return of(f"{PREFIX}{self.name}", text, labels=self.labels, unit=unit)


def _counter(name: str, unit: str, help: str, *labels: str) -> Family:  # noqa: A002, as Prometheus calls it
    return Family(name, Kind.COUNTER, unit, help, labels)


def _gauge(name: str, unit: str, help: str, *labels: str) -> Family:  # noqa: A002, as Prometheus calls it
    return Family(name, Kind.GAUGE, unit, help, labels)


# How the families of the ledger are called outside, and what one of them is.
_LEDGER_NAMES: Mapping[str, tuple[str, str]] = {
    "exits": ("exits", "exits"),
    "reflections": ("reflections", "exits"),
    "entries": ("entries", "entries"),
    "te_calls": ("te_calls", "calls"),
    "te_issued": ("te_issued", "calls"),
    "translations": ("address_translations", "translations"),
    "copied_bytes": ("bounce_bytes", "bytes"),
    "injections": ("faults_injected", "exceptions"),
    "table_ops": ("table_operations", "operations"),
    "pages": ("pages", "pages"),
    "tracking_updates": ("tracking_updates", "updates"),
    "lookups": ("tracking_lookups", "lookups"),
    "teardown": ("teardown_items", "items"),
    "peaks": ("peaks", "pages"),
    "hosting": ("host_messages", "messages"),
}


def _of_ledger(family: str) -> Family:
    name, unit = _LEDGER_NAMES.get(family, (family, ""))
    labels, text = LEDGER[family]
    return _counter(name, unit, text[0].upper() + text[1:], *MACHINE, *labels)


BY_LEDGER: Mapping[str, Family] = {family: _of_ledger(family) for family in LEDGER}

LEDGER_NAME: Mapping[Family, str] = {family: name for name, family in BY_LEDGER.items()}

CONTENTION = _counter(
    "contention", "events", "What depends on timing: busy answers, retries, waits", *MACHINE, "what"
)
RECORDS = _gauge("tracking_records", "records", "Records that live now", *MACHINE, "kind", "plane", "holder")
MODEL_BYTES = _gauge(
    "tracking_model_bytes",
    "bytes",
    "Records that live now times the model size of one",
    *MACHINE,
    "kind",
    "plane",
    "holder",
)
GUESTS = _gauge("guests", "guests", "Secure guests, by what they are at", *MACHINE, "state")

LEASE_RENEWALS = _counter("host_lease_renewals", "renewals", "Leases renewed by requesters", *MACHINE)
LEASE_EXPIRED = _counter("host_lease_expired", "leases", "Leases that ran out", *MACHINE)
REPLAYS = _counter(
    "host_idempotent_replays", "requests", "Starts asked again with a key in use", *MACHINE, "result"
)
REQUESTS = _counter(
    "host_requests", "requests", "Requests that the broker took, by message", *MACHINE, "message"
)
REFUSALS = _counter(
    "host_refusals", "requests", "Requests that the broker refused, by error", *MACHINE, "error"
)
HOST_LOOKUPS = _counter(
    "host_lookups", "lookups", "Children looked up: own, foreign, never known", *MACHINE, "result"
)
HOST_RELEASES = _counter("host_releases", "guests", "Children released, by cause", *MACHINE, "cause")
IMAGE_BYTES = _counter("host_image_bytes", "bytes", "Bytes of images that requesters sent", *MACHINE)
CHANNEL_BYTES = _counter(
    "channel_bytes", "bytes", "Bytes through channels, sent and received", *MACHINE, "dir"
)
CHANNEL_RESETS = _counter(
    "channel_resets", "channels", "Channels that ended before their streams, by cause", *MACHINE, "cause"
)
CHANNEL_WAIT = _counter(
    "channel_credit_wait_seconds",
    "seconds",
    "Time that bytes of channels waited until the other side took what came before, on this machine's clock",
    *MACHINE,
    "dir",
)
CHANNELS = _gauge("channels", "channels", "Channels: offered, not taken up yet; or open", *MACHINE, "state")
CHANNEL_LIMIT = _gauge(
    "channel_limit", "channels", "Most channels at once, of one requester and of the host", *MACHINE, "of"
)
CHANNELS_REFUSED = _counter(
    "channels_refused", "channels", "Channels that were refused because there was no room", *MACHINE
)
ORPHANS = _gauge("orphans", "guests", "Guests of the machine without a record, still to be ended", *MACHINE)

ACTORS = _gauge("actors", "actors", "Actors of this process", "role", "state")
MAILBOX_DEPTH = _gauge("mailbox_depth", "messages", "Messages that wait, all mailboxes of a role", "role")
MAILBOX_CAPACITY = _gauge("mailbox_capacity", "messages", "Room of all mailboxes of a role", "role")
MAILBOX_FULLEST = _gauge("mailbox_fullest_ratio", "ratio", "Depth over capacity of the fullest one", "role")
MAILBOX_PEAK = _gauge("mailbox_peak_depth", "messages", "The most that ever waited in one mailbox", "role")
IN_FLIGHT = _gauge("steps_in_flight", "steps", "Handlers parked until the level below answers", "role")
LINKS = _gauge("links", "links", "Links to other processes that are open", "peer")
LINK_FRAMES = _counter("link_frames", "frames", "Frames over links", "peer", "direction")
LINK_BYTES = _counter("link_bytes", "bytes", "Bytes over links", "peer", "direction")
LINK_CALLS = _gauge("link_calls", "calls", "Calls on links that are not answered", "peer", "state")
LINK_EXPIRED = _counter("link_calls_expired", "calls", "Calls on links whose deadline passed", "peer")
FRAME_ERRORS = _counter("frame_errors", "violations", "Peers that broke the protocol", "peer", "reason")
CHILDREN = _gauge("supervised_children", "children", "Children that a supervisor keeps", "supervisor")
RESTARTS = _counter("supervisor_restarts", "restarts", "Children started again", "supervisor")
RESTARTS_LEFT = _gauge(
    "supervisor_restarts_left", "restarts", "Restarts that the budget still has", "supervisor"
)

BUILD = _gauge("build_info", "", "Always 1; what this program is", "version", "python")
STARTED = _gauge("scenario_start_timestamp_seconds", "seconds", "When the scenario began, Unix time")
FOLDED = _gauge(
    "metrics_folded", "values", f"Values summed up under {OTHER!r}: a family had too many series", "family"
)

FAMILIES: tuple[Family, ...] = (
    *BY_LEDGER.values(),
    CONTENTION,
    RECORDS,
    MODEL_BYTES,
    GUESTS,
    LEASE_RENEWALS,
    LEASE_EXPIRED,
    REPLAYS,
    REQUESTS,
    REFUSALS,
    HOST_LOOKUPS,
    HOST_RELEASES,
    IMAGE_BYTES,
    CHANNEL_BYTES,
    CHANNEL_RESETS,
    CHANNEL_WAIT,
    CHANNELS,
    CHANNEL_LIMIT,
    CHANNELS_REFUSED,
    ORPHANS,
    ACTORS,
    MAILBOX_DEPTH,
    MAILBOX_CAPACITY,
    MAILBOX_FULLEST,
    MAILBOX_PEAK,
    IN_FLIGHT,
    LINKS,
    LINK_FRAMES,
    LINK_BYTES,
    LINK_CALLS,
    LINK_EXPIRED,
    FRAME_ERRORS,
    CHILDREN,
    RESTARTS,
    RESTARTS_LEFT,
    BUILD,
    STARTED,
    FOLDED,
)
