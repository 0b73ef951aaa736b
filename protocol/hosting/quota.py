"""What is charged to a requester, and to the host as a whole: a number and a limit for each dimension."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.limits import UNITS, Share

Charges = Mapping[str, int]


class Quota:
    """One requester's account within the host's. Both are charged, or neither."""

    __slots__ = ("_limit", "charged", "host")

    def __init__(self, share: Share, host: Quota | None = None) -> None:
        self._limit = share.named()
        self.charged = dict.fromkeys(UNITS, 0)
        self.host = host

    def check(self, charges: Charges) -> None:
        """Raise Refusal if `charges` do not fit: QUOTA for the requester's limit first, then NO_RESOURCE."""
        for dimension, asked in charges.items():
            limit, charged = self._limit[dimension], self.charged[dimension]
            if charged + asked > limit:
                if self.host is None:
                    raise Refusal(Code.NO_RESOURCE, f"{dimension}", detail={"dimension": dimension})
                detail = {"dimension": dimension, "limit": limit, "charged": charged, "asked": asked}
                raise Refusal(Code.QUOTA, f"{dimension}: {charged} + {asked} of {limit}", detail=detail)
        if self.host is not None:
            self.host.check(charges)

    def charge(self, charges: Charges) -> None:
        """Charge all of `charges`; raises Refusal and charges nothing where one does not fit."""
        self.check(charges)
        self._add(charges, 1)

    def owe(self, charges: Charges) -> None:
        """Charge what is there already, whether it fits or not: a former life let it in."""
        self._add(charges, 1)

    def refund(self, charges: Charges) -> None:
        self._add(charges, -1)

    def _add(self, charges: Charges, sign: int) -> None:
        for dimension, n in charges.items():
            self.charged[dimension] += sign * n
            assert self.charged[dimension] >= 0, f"more {dimension} refunded than charged"
        if self.host is not None:
            self.host._add(charges, sign)

    def idle(self) -> bool:
        return not any(self.charged.values())

    def limits(self) -> dict[str, int]:
        return dict(self._limit)

    def free(self) -> dict[str, int]:
        return {name: limit - self.charged[name] for name, limit in self._limit.items()}

    def body(self) -> dict[str, object]:
        """Return what `quota.get` answers. What the host has left may be less than `free`."""
        return {
            dimension: {
                "limit": self._limit[dimension],
                "charged": self.charged[dimension],
                "free": self._limit[dimension] - self.charged[dimension],
                "unit": unit,
            }
            for dimension, unit in UNITS.items()
        }
