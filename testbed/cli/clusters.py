"""What the verbs on live clusters share: which cluster, which link, and rates in words."""

import re
from collections.abc import Callable
from typing import Any

import click

from testbed.errors import InputError

RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(|[kmg])(?:bit|bps|bit/s)?", re.IGNORECASE)
TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)", re.IGNORECASE)
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def cluster_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--cluster NAME`: which live cluster; not needed where only one is up."""
    option = click.option("-c", "--cluster", metavar="NAME", help="Which, if several are up.")
    decorated: Callable[..., Any] = option(command)
    return decorated


def rate_bps(text: str) -> float:
    """`100Mbps`, `2.5 Gbit/s` or `5e8` as bit/s; InputError otherwise."""
    try:
        found = RATE.fullmatch(text.strip())
        value = float(found[1]) * _FACTORS[found[2].lower()] if found else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"rate {text!r}: write it like 200Mbps or 1.5Gbps")
    return value


def time_s(text: str) -> float:
    """`250us`, `2ms` or `0.1s` as seconds; InputError otherwise."""
    if found := TIME.fullmatch(text.strip()):
        return float(found[1]) * _SECONDS[found[2].lower()]
    raise InputError(f"delay {text!r}: write it like 2ms or 250us")


def link_id(text: str) -> tuple[str, str]:
    """`pe0-buf:snic` as (owner, nic); InputError otherwise."""
    owner, _, nic = text.partition(":")
    if not owner or not nic:
        raise InputError(f"link {text!r}: write it as HOST:NIC, like pe0-buf:snic or pe0:uplink")
    return owner, nic


def mbps(bps: float | None) -> str:
    """A rate for people, in Mbit/s."""
    return "unshaped" if bps is None else f"{bps / 1e6:.6g}"
