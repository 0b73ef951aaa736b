"""Memory and books: what each level keeps about its guest hosts, how it grows, and how it goes away."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from actors.observe import metrics as f
from dashboards.parts import (
    BYTES,
    COUNT,
    EACH_SECOND,
    SELECTED,
    Panel,
    board,
    lines,
    now,
    query,
    rate,
    stacked,
    states,
)

UPDATES, PAGES, TEARDOWN = f.BY_LEDGER["tracking_updates"], f.BY_LEDGER["pages"], f.BY_LEDGER["teardown"]
LOOKUPS = f.BY_LEDGER["lookups"]


def tracking() -> m.Dashboard:
    """The dashboard."""
    return board(
        "nestbed-tracking",
        "nestbed: memory, tracking and teardown",
        "The records that a level needs so that it can answer for its guest hosts, by holder and plane.",
        [
            (6, [(24, _lives())]),
            (
                8,
                [
                    (
                        12,
                        stacked(
                            lines(
                                "Records by plane",
                                "Records that live. Good: they follow the guests and go with them.",
                                COUNT,
                                query(now(f.RECORDS, "path, plane"), "{{path}} {{plane}}"),
                            )
                        ),
                    ),
                    (
                        12,
                        stacked(
                            lines(
                                "Model bytes by holder",
                                "Records times the model size of one, an estimate. "
                                "Good: it falls back when guests go; hosting moves it from L1 to L0.",
                                BYTES,
                                query(now(f.MODEL_BYTES, "path, holder"), "{{path}} {{holder}}"),
                            )
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
                            "Changes of records a second",
                            "How busy the books are, in the emulator's own time. "
                            "Good: deletes follow creates.",
                            EACH_SECOND,
                            query(rate(UPDATES, "path, op"), "{{path}} {{op}}"),
                        ),
                    ),
                    (
                        12,
                        lines(
                            "Look-ups",
                            "Look-ups in tracking tables, counted up. Good: hits; each miss is a "
                            "handle that nobody knows.",
                            COUNT,
                            query(now(LOOKUPS, "path, result"), "{{path}} {{result}}"),
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
                            "Pages of secure guests",
                            "What happened to pages, counted up. Good: what is brought "
                            "in is brought out or released.",
                            COUNT,
                            query(now(PAGES, "path, op"), "{{path}} {{op}}"),
                        ),
                    ),
                    (
                        12,
                        lines(
                            "Items torn down, by cause",
                            "Items released when their owner went away, counted up. "
                            "Good: a step at a reboot, then flat: nothing is left over.",
                            COUNT,
                            query(now(TEARDOWN, "path, cause"), "{{path}} {{cause}}"),
                        ),
                    ),
                ],
            ),
        ],
    )


def _lives() -> Panel:
    """L1s and their guests as L0 knows them: what a reboot does to both is seen here first."""

    def known(kinds: str) -> str:
        return now(f.RECORDS, where=f'{SELECTED},holder="l0",kind=~"{kinds}"')

    return states(
        "Lives of L1 hosts and of their guests, as L0 knows them",
        "How many guest hosts and secure guests L0 keeps records of. Good: a reboot of a host takes its "
        "guests away and leaves those of other hosts where they are; at the end there are none.",
        query(known("te_context|requester"), "{{path}}: L1 hosts"),
        query(known("vm_map|child"), "{{path}}: L2 guests", letter="B"),
    )
