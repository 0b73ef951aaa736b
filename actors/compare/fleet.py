"""A comparison on several machines: each architecture on each path is one machine's work, whole.

A path is one L0 with everything on it, so nothing of the emulation crosses a link: the driver sends what is
to be run, an *agent* runs it as if it were alone, and its result comes back. Results depend on scenario and
seed alone, so work that an agent took and never finished is given to another.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from actors.runtime.link import Link
from actors.runtime.port import Deliver
from actors.runtime.transport.pki import Credentials
from actors.runtime.transport.tls import Exchange, Peer, dial, only
from protocol.errors import (
    LevelGone,
    NestbedError,
    NotDelivered,
    OperationFailed,
    OutcomeUnknown,
    RemoteProtocolError,
)
from protocol.plan.scenario import Scenario, leaves
from protocol.roles import DRIVER, MACHINE, may_ask

if TYPE_CHECKING:
    from actors.scenario import Resolved

COMPARE = "compare"  # the actor of an agent, and the link to it
FRAME_BYTES = 8 << 20  # a result has a few hundred kilobytes
Json = dict[str, Any]
Job = tuple[str, str]  # architecture, path


class NobodyLeft(NestbedError):
    """Work is left, and no agent that could do it."""


# -- the driver --------------------------------------------


@dataclass(frozen=True, slots=True)
class Agents:
    """Where agents are, and who we are to them."""

    addresses: tuple[tuple[str, int], ...]
    credentials: Credentials


async def gathered(scenario: Scenario, agents: Agents) -> dict[Job, Json]:
    """Have everything run that `scenario` asks for. Raises NobodyLeft, OperationFailed as an agent says."""
    left: deque[Job] = deque((arch, path) for arch in scenario.arch for path in scenario.paths)
    done: dict[Job, Json] = {}
    failures: list[str] = []
    here = list(agents.addresses)
    while left and here:  # again, if an agent that is gone gave something back when others had ended
        async with trio.open_nursery() as nursery:
            for address in tuple(here):
                nursery.start_soon(
                    _keep_busy, address, agents.credentials, scenario, left, done, here, failures
                )
    if left:
        raise NobodyLeft("; ".join(failures))
    return done


async def _keep_busy(
    address: tuple[str, int],
    credentials: Credentials,
    scenario: Scenario,
    left: deque[Job],
    done: dict[Job, Json],
    here: list[tuple[str, int]],
    failures: list[str],
) -> None:
    """Give one agent a piece of work after another, until there is none or it is gone."""
    host, port = address
    try:
        stream = await dial(host, port, credentials, MACHINE, COMPARE)
    except (OSError, NestbedError, trio.TooSlowError, trio.BrokenResourceError) as error:
        failures.append(f"{host}:{port}: {type(error).__name__}: {error}")
        here.remove(address)
        return
    async with trio.open_nursery() as nursery:
        link = Link(stream, limit=FRAME_BYTES)
        nursery.start_soon(link.run)
        while left:
            job = left.popleft()
            try:
                done[job] = json.loads(await link.ask(COMPARE, [*job, settings_of(scenario)]))
            except (LevelGone, NotDelivered, OutcomeUnknown) as gone:
                left.append(job)
                failures.append(f"{host}:{port}: {gone}")
                here.remove(address)
                break
        nursery.cancel_scope.cancel()


def settings_of(scenario: Scenario) -> dict[str, str]:
    """The scenario as flags would give it: read at the other end with the same care as a person's."""
    return {
        path: ",".join(value) if isinstance(value, tuple) else str(value)
        for path, value, kind in leaves(scenario)
        if kind.kind not in ("thresholds", "file")
    }


# -- the agent ---------------------------------------------


class Agent:
    """Runs one path at a time, in a thread, for drivers that have a certificate."""

    def __init__(self, credentials: Credentials) -> None:
        self.exchange = Exchange(credentials, welcome=self._welcome)
        self._turn = trio.CapacityLimiter(1)
        self._nursery: trio.Nursery | None = None
        self.done = 0
        self.busy = 0  # pieces of work that were taken and are not done

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled. Raises OSError if it cannot listen."""
        async with trio.open_nursery() as self._nursery:
            task_status.started(await self.exchange.listen(self._nursery, host, port))
            await trio.sleep_forever()

    async def _welcome(self, peer: Peer, ticket: str, stream: trio.abc.Stream) -> None:
        if peer.role != DRIVER or ticket != COMPARE:
            raise RemoteProtocolError("role", f"{peer.role} {peer.name} opens {ticket[:40]!r}")
        await Link(stream, only(may_ask(DRIVER), self._serve), limit=FRAME_BYTES).run()

    def _serve(self, target: str, message: object, deliver: Deliver) -> None:
        assert self._nursery is not None
        match message:
            case [str(arch), str(path), dict(settings)] if target == COMPARE:
                self._nursery.start_soon(self._perform, arch, path, settings, deliver)
            case _:
                deliver(None, NotDelivered(f"nothing that an agent does: {target[:40]!r}"))

    async def _perform(self, arch: str, path: str, settings: dict[str, str], deliver: Deliver) -> None:
        self.busy += 1
        try:
            resolved = checked(arch, path, settings)
            work = partial(_run, resolved.scenario, arch, path)
            text = await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._turn)
        except OperationFailed as error:
            deliver(None, error)
        except Exception as error:  # what fails is the comparison, not the agent
            deliver(None, OperationFailed(f"{arch} {path}: {type(error).__name__}: {error}"))
        else:
            self.done += 1
            deliver(text, None)
        finally:
            self.busy -= 1


def checked(arch: str, path: str, settings: dict[str, str]) -> Resolved:
    """The scenario that a driver sent. Raises OperationFailed with everything that is wrong in it."""
    from actors.scenario import BrokenScenario, load

    flags = {str(name): str(value) for name, value in settings.items()}
    try:
        return load(flags={**flags, "arch": arch, "paths": path, "transport": "memory"}, environment={})
    except BrokenScenario as broken:
        raise OperationFailed(broken.text()) from None


def _run(scenario: Scenario, arch: str, path: str) -> str:
    from actors.compare.run import one

    return json.dumps(one(scenario, arch, path))
