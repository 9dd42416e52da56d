"""`oracle`: as `dualpath`, in a cluster where KV moves at once (DualPath section 7)."""

import msgspec

from scheduler.policies.dualpath import DualPath


class Oracle(DualPath):
    """What compute alone would allow: no storage reads, no copies to or from HBM or between nodes.

    No cluster can do that; worlds that move real bytes refuse it.
    """

    traits = msgspec.structs.replace(DualPath.traits, io=False)


POLICY = Oracle
