"""Payload rates of a topology's data links."""

from collections.abc import Mapping

import msgspec

from testbed.errors import InputError
from topologies.shape import ClusterShape

MIN_BPS = 100_000.0  # below, one frame takes over 0.1 s and no timing means anything


class LinkRates(msgspec.Struct, frozen=True):
    """Payload rate in bit/s per direction by (host, nic) or (node, "uplink"); None is unshaped."""

    payload_bps: dict[tuple[str, str], float | None]


def link_rates(
    shape: ClusterShape,
    *,
    snic_bps: float | None,
    cnic_bps: float | None,
    pcie_bps: float | None,
    uplink_bps: float | None,
    storage_bps: float | None = None,
    overrides: Mapping[tuple[str, str], float | None] | None = None,
    least_bps: float = MIN_BPS,
) -> LinkRates:
    """One rate per kind of link, then single links; all payload bit/s, None for unshaped.

    `cnic_bps` is that of one GPU host: g times a CNIC's if the topology is folded. `storage_bps`
    is that of each storage host. Raises InputError for an unknown link or a rate below `least_bps`.
    """
    by_nic = {"snic": snic_bps, "cnic": cnic_bps, "pcie": pcie_bps, "uplink": uplink_bps}
    rates = {
        (owner, nic): storage_bps if owner in shape.storage else by_nic[nic]
        for owner, nic in shape.data_links()
    }
    for link, bps in (overrides or {}).items():
        if link not in rates:
            known = ", ".join(f"{owner}:{nic}" for owner, nic in rates)
            raise InputError(f"no data link {link[0]}:{link[1]}; this topology has {known}")
        rates[link] = bps
    for (owner, nic), bps in rates.items():
        if bps is not None and not least_bps <= bps < float("inf"):
            raise InputError(
                f"the emulated rate of {owner}:{nic} is {bps:.0f} bit/s and must be at least "
                f"{least_bps:.0f}; make the hardware faster, or scale.time_scale or "
                "scale.token_scale smaller"
            )
    return LinkRates(rates)
