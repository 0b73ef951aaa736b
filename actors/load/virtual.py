"""The same requests in virtual time: recorded operations, priced, that queue where only one gets in.

What a guest does it does one request at a time; what a host's or the machine's locks let in one at a time
queues there. CPUs do not run out: the table has no price for waiting for one.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.load.drive import NS, Answer, Block
from actors.load.recorded import Recorded
from protocol.cost.table import Costs
from protocol.load.requests import Asked, Draw, Request
from protocol.plan.scenario import Load
from protocol.queueing.demand import Demands, Place
from protocol.queueing.engine import Done, Engine, Job, Server, Step

GUEST = "guest"


class VirtualTarget:
    """One path of one architecture, as the model has it."""

    def __init__(self, costs: Costs, recorded: Recorded, per_host: int) -> None:
        self._demands = Demands(costs, recorded.group)
        self._recorded = recorded
        self._per_host = per_host
        self._steps: dict[tuple[str, int], Sequence[Step]] = {}

    def job(self, request: Request, now_ns: float) -> Job:
        """The steps of a request, from now on, while its guest does nothing else."""
        key = request.kind, request.guest
        if key not in self._steps:
            place = Place(request.guest // self._per_host, request.guest)
            self._steps[key] = self._demands.steps(self._recorded.request(request.kind), place)
        name = f"{GUEST}.{request.guest}"
        return Job(str(request.number), now_ns, self._steps[key], (name,))

    def engine(self) -> Engine:
        return Engine(lambda name: Server() if name.startswith(GUEST) else self._demands.server(name))


def drive_open(target: VirtualTarget, requests: Sequence[Request]) -> Block:
    """Every request at its time."""
    engine = target.engine()
    outcome = engine.run(target.job(request, request.at_s * NS) for request in requests)
    return _block(outcome.done, {str(request.number): request for request in requests}, outcome.end_ns)


def drive_closed(target: VirtualTarget, load: Load, guests: Sequence[int], draw: Draw) -> Block:
    """Clients that think, ask and wait."""
    asked: dict[str, Request] = {}
    clients = [
        _Client(target, load, guests, Draw(draw.seed, draw.pair, draw.shard * load.clients + n), asked)
        for n in range(load.clients)
    ]
    outcome = target.engine().run_closed(clients)
    return _block(outcome.done, asked, outcome.end_ns)


class _Client:
    def __init__(
        self,
        target: VirtualTarget,
        load: Load,
        guests: Sequence[int],
        draw: Draw,
        asked: dict[str, Request],
    ) -> None:
        self._target = target
        self._load = load
        self._next = Asked(load.mix, guests, draw)
        self._thoughts = draw.stream("think")
        self._asked = asked

    def think_ns(self) -> float:
        think_ms = self._load.think_ms
        return self._thoughts.expovariate(1000 / think_ms) * NS if think_ms else 1.0

    def next(self, now_ns: float) -> Job | None:
        if now_ns >= self._load.duration_s * NS:
            return None
        request = self._next.next(now_ns / NS)
        name = str(len(self._asked))
        self._asked[name] = Request(len(self._asked), request.at_s, request.kind, request.guest)
        return self._target.job(self._asked[name], now_ns)


def _block(done: Sequence[Done], requests: dict[str, Request], end_ns: float) -> Block:
    answers = [
        Answer(requests[each.name], round(each.arrival_ns), round(each.begun_ns), round(each.end_ns))
        for each in done
    ]
    answers.sort(key=lambda answer: (answer.intended_ns, answer.request.number))
    return Block(answers, 0, end_ns / NS)
