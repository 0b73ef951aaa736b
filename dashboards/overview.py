"""The first look: what runs, on which paths, and how much of everything there is."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from actors.observe import metrics as f
from dashboards.parts import BYTES, COUNT, EACH_SECOND, board, figure, lines, now, query, rate, total

EXITS, ISSUED = f.BY_LEDGER["exits"], f.BY_LEDGER["te_issued"]
FAULTS, COPIED, TEARDOWN = f.BY_LEDGER["injections"], f.BY_LEDGER["copied_bytes"], f.BY_LEDGER["teardown"]


def overview() -> m.Dashboard:
    """The dashboard."""
    first = [
        (
            4,
            figure(
                "Processes",
                "Processes of nestbed that the data source knows in the time shown. Good: as "
                "many as were started.",
                COUNT,
                query(f"count(last_over_time({f.BUILD.sample}[$__range]))", "processes", once=True),
            ),
        ),
        (
            5,
            figure(
                "Exits to L0",
                "Arrivals at L0, the newest count of each path. Good: far fewer on hosted "
                "than on nested for the same scenario.",
                COUNT,
                query(total(EXITS), once=True),
            ),
        ),
        (
            5,
            figure(
                "Calls at the TE",
                "Calls that reached the real trusted entity. Good: nested and hosted "
                "alike: neither adds work for it.",
                COUNT,
                query(total(ISSUED), once=True),
            ),
        ),
        (
            5,
            figure(
                "Faults injected",
                "Exceptions injected into guest hosts. Good: none on direct, few on "
                "hosted; on nested they come with every page that has to change hands.",
                COUNT,
                query(total(FAULTS), once=True),
            ),
        ),
        (
            5,
            figure(
                "Bytes copied",
                "Bytes copied because a block or a buffer could not be passed. Good: none on direct.",
                BYTES,
                query(total(COPIED), once=True),
            ),
        ),
    ]
    return board(
        "nestbed-overview",
        "nestbed: overview",
        "What runs and how much of everything there is. Counts are of the emulated machine; no time of any "
        "hardware is shown.",
        [
            (4, first),
            (
                8,
                [
                    (
                        12,
                        lines(
                            "Exits a second",
                            "How fast exits arrive at L0, in the emulator's own time: shows "
                            "activity, not speed of hardware. Good: not zero while a scenario runs.",
                            EACH_SECOND,
                            query(rate(EXITS)),
                        ),
                    ),
                    (
                        12,
                        lines(
                            "Calls at the TE a second",
                            "How fast calls reach the trusted entity, in the "
                            "emulator's own time. Good: not zero while a scenario runs.",
                            EACH_SECOND,
                            query(rate(ISSUED)),
                        ),
                    ),
                ],
            ),
            (
                8,
                [
                    (
                        12,
                        lines(
                            "Model bytes of records",
                            "Records that live now times the model size of one (an "
                            "estimate). Good: back to what belongs to hosts when guests are gone.",
                            BYTES,
                            query(now(f.MODEL_BYTES)),
                        ),
                    ),
                    (
                        12,
                        lines(
                            "Items torn down",
                            "Items released when their owner went away, counted up. Good: "
                            "steps at reboots and ends of hosts, flat between them.",
                            COUNT,
                            query(now(TEARDOWN)),
                        ),
                    ),
                ],
            ),
        ],
    )
