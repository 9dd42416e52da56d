"""Reports: every member of a group tells its leader what it holds; the leader pulls work."""

from collections.abc import Callable

from engines.config import GroupConfig
from engines.messages import Report
from engines.seams.clock import Clock
from engines.seams.transport import Transport


class Reporter:
    """A member's part of the fetch (DualPath section 6.1); the leader's includes everybody's."""

    def __init__(
        self,
        host: str,
        group: GroupConfig,
        clock: Clock,
        transport: Transport,
        own: Callable[[], Report],
    ) -> None:
        self._host = host
        self._group = group
        self._clock = clock
        self._transport = transport
        self._own = own
        self._others: dict[str, Report] = {}

    def hear(self, member: str, report: Report) -> None:
        """Keep a member's newest report (leader only)."""
        self._others[member] = report

    async def run(self) -> None:
        """Report, or fetch, once a period, on the clock's own grid and in the group's phase of it.

        Groups that all fetched at once would always come in the same order, and the first would
        take what waits.
        """
        period_s, phase_s, turn = self._group.period_s, self._group.phase_s, 0
        leading = self._host == self._group.leader
        while True:
            turn = max(turn, int((self._clock.now_s() - phase_s) / period_s)) + 1
            await self._clock.beat_until_s(turn * period_s + phase_s)
            if not leading:
                self._transport.post(self._group.leader, self._own())
            elif (merged := self._merged()) is not None:
                self._transport.post(self._group.scheduler, merged)

    def _merged(self) -> Report | None:
        """The whole group's; None until every member has reported in the leader's term."""
        own = self._own()
        engines, nodes, missing = own.engines, own.nodes, len(self._group.members) - 1
        for report in self._others.values():
            if report.term == own.term:
                engines += report.engines
                nodes += report.nodes
                missing -= 1
        return None if missing > 0 else Report(own.group, engines, nodes, own.term)
