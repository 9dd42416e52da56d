"""Addresses of a topology's network interfaces: the same topology always gets the same ones."""

from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import msgspec

from testbed.errors import InputError

if TYPE_CHECKING:
    from mininet.topo import Topo

# 198.18.0.0/15 is set aside for network benchmarks (RFC 2544).
NETWORKS = {
    "storage": IPv4Network("198.18.0.0/17"),
    "mgmt": IPv4Network("198.18.128.0/17"),
    "compute": IPv4Network("198.19.0.0/16"),
}


class NicAddress(msgspec.Struct, frozen=True):
    """One interface of a host."""

    network: str
    ip: str
    prefix_bits: int
    mac: str


class HostNet(msgspec.Struct, frozen=True):
    """A host as its processes need it: join `netns_fd`, listen on `addresses[network]`."""

    name: str
    netns_fd: int
    addresses: dict[str, str]
    nics: dict[str, NicAddress]


def plan_addresses(topo: "Topo") -> dict[tuple[str, str], NicAddress]:
    """The address of every (host, nic); raises InputError for a link outside the networks."""
    plan: dict[tuple[str, str], NicAddress] = {}
    used = dict.fromkeys(NETWORKS, 0)
    for owner, _, info in topo.links(sort=True, withInfo=True):
        if topo.isSwitch(owner):
            continue
        name = info["network"]
        if name not in NETWORKS:
            raise InputError(f"link of {owner} is on network {name!r}; use {', '.join(NETWORKS)}")
        used[name] += 1
        number = used[name]
        network = NETWORKS[name]
        octets = (2, 0, list(NETWORKS).index(name), *number.to_bytes(3, "big"))
        plan[owner, info["nic"]] = NicAddress(
            network=name,
            ip=str(network[number]),
            prefix_bits=network.prefixlen,
            mac=":".join(f"{octet:02x}" for octet in octets),
        )
    return plan
