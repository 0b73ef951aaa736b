"""Calls of the trusted entity: which, of what category, and what the level below did with them."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from actors.observe import metrics as f
from dashboards.parts import COUNT, EACH_SECOND, board, figure, lines, now, query, rate, stacked, total

CALLS, ISSUED = f.BY_LEDGER["te_calls"], f.BY_LEDGER["te_issued"]


def calls() -> m.Dashboard:
    """The dashboard."""
    return board(
        "nestbed-te-calls",
        "nestbed: TE calls by category and treatment",
        "What guest hosts and L0 asked of the trusted entity, and how each call was treated on its way.",
        [
            (
                5,
                [
                    (
                        12,
                        figure(
                            "Calls by treatment",
                            "Calls as their issuer made them, by what the level below did. "
                            "Good: much passed, little emulated.",
                            COUNT,
                            query(total(CALLS, "treatment"), "{{treatment}}", once=True),
                        ),
                    ),
                    (
                        12,
                        figure(
                            "Calls by category",
                            "The same calls by what they are about. Good: memory leads; init stays small.",
                            COUNT,
                            query(total(CALLS, "category"), "{{category}}", once=True),
                        ),
                    ),
                ],
            ),
            (
                8,
                [
                    (
                        12,
                        stacked(
                            lines(
                                "Calls by treatment, counted up",
                                "Where in the run each treatment happens. "
                                "Good: emulated rises with guests made, not with pages.",
                                COUNT,
                                query(now(CALLS, "treatment"), "{{treatment}}"),
                            )
                        ),
                    ),
                    (
                        12,
                        stacked(
                            lines(
                                "Calls by category, counted up",
                                "Where in the run each category happens. "
                                "Good: flat when nothing is made, changed or ended.",
                                COUNT,
                                query(now(CALLS, "category"), "{{category}}"),
                            )
                        ),
                    ),
                ],
            ),
            (
                9,
                [
                    (
                        12,
                        lines(
                            "The ten most frequent calls",
                            "Calls that reached the trusted entity, the ten with "
                            "most. Good: calls on pages, not on guests.",
                            COUNT,
                            query(f"topk(10, {now(ISSUED, 'call')})", "{{call}}"),
                        ),
                    ),
                    (
                        12,
                        lines(
                            "Calls a second, by level that caused them",
                            "In the emulator's own time. Good: level 0 alone on direct and hosted.",
                            EACH_SECOND,
                            query(rate(ISSUED, "path, origin"), "{{path}} L{{origin}}"),
                        ),
                    ),
                ],
            ),
        ],
    )
