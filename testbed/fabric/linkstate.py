"""A data link as it is set now: what other processes are told of it, without the kernel's side."""

import msgspec

LinkId = tuple[str, str]


class LinkState(msgspec.Struct, frozen=True):
    """A data link now and as the topology has it; the same in both directions.

    Payload bit/s (None is unshaped) and seconds one way. The rate holds at both ends: what the
    owner sends is shaped at its interface, what it receives at the switch port. `delay_by` is
    "netem" or, without a delay, "none".
    """

    owner: str
    nic: str
    payload_bps: float | None
    delay_s: float
    nominal_bps: float | None
    nominal_delay_s: float
    delay_by: str

    @property
    def link_id(self) -> LinkId:
        """What names the link: owner and nic."""
        return self.owner, self.nic
