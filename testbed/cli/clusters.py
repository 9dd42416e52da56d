"""What the verbs on live clusters share: which cluster, which link, and rates in words."""

import math
import re
from collections.abc import Callable
from typing import Any

import click

from engines.seams.transport import DSCP
from testbed.errors import InputError

# A small b is a bit, a capital one a byte; letters of the factor may be either.
RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(|[kmgKMG])(?:[bB]it(?:/s|ps)?|BIT|bps|b/s)?")
BYTES = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*(|[kmgKMG])(?:B|[bB]ytes?|BYTES?)(?:/s|ps|PS|/S|/sec)?"
)
TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)", re.IGNORECASE)
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def cluster_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--cluster NAME`: which live cluster; not needed where only one is up."""
    option = click.option("-c", "--cluster", metavar="NAME", help="Which, if several are up.")
    decorated: Callable[..., Any] = option(command)
    return decorated


def named(command: Callable[..., Any]) -> Callable[..., Any]:
    """`[NAME]` and `--cluster NAME`, which mean the same: see `one_name`."""
    with_option: Callable[..., Any] = cluster_option(command)
    decorated: Callable[..., Any] = click.argument("name", required=False)(with_option)
    return decorated


def one_name(name: str | None, cluster: str | None) -> str | None:
    """The name that was given in either way; InputError for two that differ."""
    if name is not None and cluster is not None and name != cluster:
        raise InputError(f"{name!r} and --cluster {cluster!r} are two clusters; name one of them")
    return cluster if name is None else name


class Seconds(click.FloatRange):
    """A length of time; `nan`, which is within any range, is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; a usage error for what is none or is out of range."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no length of time", param, ctx)
        return seconds


def rate_bps(text: str) -> float:
    """`100Mbps`, `2.5 Gbit/s` or `5e8` as bit/s; InputError otherwise, and for bytes."""
    if found := BYTES.fullmatch(text.strip()):
        raise InputError(
            f"rate {text!r} is in bytes, and links have bits a second: write it like 200Mbps; "
            f"so many bytes are {8 * float(found[1]):g}{found[2]}bps"
        )
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


def mark_words(dscp: int | None) -> str:
    """`MODEL (DSCP 46)`, `DSCP 10` of no class of ours, or `none`."""
    if dscp is None:
        return "none"
    ours = [str(name).upper() for name, mark in DSCP.items() if mark == dscp]
    return f"{ours[0]} (DSCP {dscp})" if ours else f"DSCP {dscp}"


def megabytes(payload_bytes: int) -> str:
    """Payload for people; what is no TCP may have less than its headers are taken for."""
    return f"{max(0, payload_bytes) / 1e6:.2f}"
