"""What the lab sees of a run while it goes on: counters, CPUs, queues, and a sleeper beside."""

import time

from testbed.worlds.backlogs import chain, nominal_bytes_per_s, queues
from testbed.worlds.network import Network
from testbed.worlds.samples import (
    Backlogged,
    PortBytes,
    Sample,
    Samples,
    core_times_s,
    cores,
    own_times_s,
)
from testbed.worlds.sleeper import Sleeper

CHAIN_EVERY = 2  # looks; a chain costs 5 ms of CPU on nine links


class Looks:
    """All looks of one run; to be made while the lab is small, for it forks the sleeper.

    Without a machine to `judge` only the ports are looked at: where no link is shaped and no PID
    namespace tells our processes from others', there is nothing to be said about times.
    """

    def __init__(self, judge: bool = True) -> None:
        self._sleeper = Sleeper() if judge else None
        self._samples: list[Sample] = []
        self._backlogged: list[Backlogged] = []

    def begin(self) -> None:
        """The run begins."""
        if self._sleeper is not None:
            self._sleeper.begin()

    def take(self, fabric: Network, hosts: frozenset[str], due_s: float) -> None:
        """One look, that was due at this time of the monotonic clock."""
        at_s = time.monotonic()
        ports = tuple(
            PortBytes(host, nic, link.received_payload_bytes, link.sent_payload_bytes)
            for (host, nic), link in fabric.counters().items()
        )
        late_s = max(0.0, at_s - due_s)
        if self._sleeper is None:
            self._samples.append(Sample(at_s, ports, 0.0, 0.0, late_s))
            return
        busy_s, steal_s = core_times_s()
        own_s, delays_s = own_times_s(hosts)
        self._samples.append(Sample(at_s, ports, busy_s, own_s, late_s, steal_s, delays_s))
        if len(self._samples) % CHAIN_EVERY == 0:
            self._backlogged += chain(lambda: queues(fabric), nominal_bytes_per_s(fabric))

    def end(self, fabric: Network, start_s: float, network_up_s: float, delay_by: str) -> Samples:
        """Everything seen of a run that began at this time of the monotonic clock."""
        payload: dict[str, dict[str, int]] = {}
        dropped: dict[str, dict[str, int]] = {}
        for (host, nic), classes in fabric.class_counters().items():
            for way, counters in ((">", classes.sent), ("<", classes.received)):
                link = f"{host}:{nic}{way}"
                payload[link] = {name: one.payload_bytes for name, one in counters.items()}
                dropped[link] = {name: one.dropped_packets for name, one in counters.items()}
        found = Samples(
            start_s, self._samples, payload, network_up_s, dropped=dropped, delay_by=delay_by
        )
        if self._sleeper is not None:
            found.cores, found.sleeps = cores(), self._sleeper.end()
            found.backlogged = self._backlogged
        return found
