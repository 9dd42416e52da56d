"""A link as it is set now."""

import msgspec


class LinkState(msgspec.Struct, frozen=True):
    """A data link's values, and those of its topology; rates in payload bit/s, None is unshaped.

    `delay_by` is "netem" or "none".
    """

    owner: str
    nic: str
    payload_bps: float | None
    delay_s: float
    nominal_bps: float | None
    nominal_delay_s: float
    delay_by: str
