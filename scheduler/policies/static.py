"""`static`: a fixed assignment. An agent's turns always meet the same PE, DE and side.

The load balancer with sticky sessions. `static-split` fixes one decision, the share of reads that
each storage NIC gets; `static` fixes all of them.
"""

from scheduler.policies.round_robin import RoundRobin
from scheduler.types import Request


class Static(RoundRobin):
    """Agents in turn, as `round-robin` takes requests; what they bring is not looked at."""

    def number(self, request: Request) -> int:
        """The agent's."""
        return request.agent


POLICY = Static
