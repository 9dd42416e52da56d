"""HTB shaping with the traffic classes of design.md section 2, for one end of a data link."""

import struct
from functools import lru_cache
from typing import Any

from pyroute2.netlink.rtnl.tcmsg import plugins, sched_htb, sched_pfifo, tcmsg

from testbed.fabric.filters import FLUSH, by_dscp
from testbed.fabric.netlink import (
    CREATE,
    NLM_F_REQUEST,
    REPLACE,
    RTM_DELQDISC,
    RTM_NEWQDISC,
    RTM_NEWTCLASS,
    TC_H_ROOT,
    Request,
    addressed,
    attributes,
    encode,
)
from testbed.fabric.wire import FRAME_BYTES, KV_CLASS, MODEL_CLASS, ClassCounters, wire_bps

# pyroute2 lacks bfifo, whose one parameter is that of pfifo.
plugins["bfifo"] = sched_pfifo

ROOT, LINK, MODEL, KV = 0x10000, 0x10001, 0x10010, 0x10020
CLASS_NAMES = {MODEL: MODEL_CLASS, KV: KV_CLASS}
KV_SHARE = 0.01
QUANTUM_BYTES = 60_000
MIN_BURST_BYTES = 2 * FRAME_BYTES
MODEL_QUEUE_PACKETS = 1000
KV_QUEUE_S = 0.010
MAX_KV_QUEUE_BYTES = 1 << 28
MIN_KV_QUEUE_BYTES = 256 * 1024  # below four full GSO packets a lone flow loses rate


def burst_bytes(payload_bps: float, limit_bytes: int | None) -> int:
    """What may follow at once after idle: 1 ms, at most the limit, at least two frames."""
    burst = int(wire_bps(payload_bps) / 8 * 1e-3)
    if limit_bytes is not None:
        burst = min(burst, limit_bytes)
    return max(MIN_BURST_BYTES, burst)


def kv_queue_bytes(payload_bps: float) -> int:
    """The KV class's queue limit: 10 ms, at least four GSO packets."""
    wanted = int(wire_bps(payload_bps) / 8 * KV_QUEUE_S)
    return min(max(MIN_KV_QUEUE_BYTES, wanted), MAX_KV_QUEUE_BYTES)


def _tc(kind: str, message: int, flags: int, fields: dict[str, int], options: Any) -> bytes:
    attrs = [("TCA_KIND", kind), ("TCA_OPTIONS", options)]
    return encode(tcmsg, message, flags, fields, attrs)


def _class(
    flags: int, handle: int, parent: int, rate_bps: float, ceil_bps: float, burst: int, prio: int
) -> bytes:
    parameters = sched_htb.get_class_parameters(
        {
            "rate": int(rate_bps / 8),
            "ceil": int(ceil_bps / 8),
            "burst": burst,
            "cburst": burst,
            "prio": prio,
            "quantum": QUANTUM_BYTES,
        }
    )
    # The kernel computes with the rates themselves; the two rate tables are 2 KB of ballast.
    tables = ("TCA_HTB_RTAB", "TCA_HTB_CTAB")
    parameters["attrs"] = [item for item in parameters["attrs"] if item[0] not in tables]
    fields = {"handle": handle, "parent": parent}
    return _tc("htb", RTM_NEWTCLASS, flags, fields, parameters)


@lru_cache(maxsize=256)
def _classes(
    payload_bps: float, qos: bool, burst_limit_bytes: int | None, flags: int
) -> tuple[bytes, ...]:
    rate = wire_bps(payload_bps)
    burst = burst_bytes(payload_bps, burst_limit_bytes)
    # Without classes nothing is sent to MODEL. It stays, idle, so that its counters and what
    # waited in it survive a switch; the guarantees never add up to more than the link.
    model_share = 1 - KV_SHARE if qos else KV_SHARE
    return (
        _class(flags, LINK, ROOT, rate, rate, burst, 0),
        _class(flags, MODEL, LINK, rate * model_share, rate, burst, 0),
        _class(flags, KV, LINK, rate * (1 - model_share), rate, burst, 1),
    )


def _leaf(flags: int, kind: str, parent: int, limit: int) -> bytes:
    fields = {"handle": (parent & 0xFFFF) << 16, "parent": parent}
    return _tc(kind, RTM_NEWQDISC, flags, fields, {"limit": limit})


@lru_cache(maxsize=256)
def _tree(
    payload_bps: float, qos: bool, burst_limit_bytes: int | None, parent: int
) -> tuple[bytes, ...]:
    root = sched_htb.get_parameters({"default": KV & 0xFFFF})
    messages = [_tc("htb", RTM_NEWQDISC, CREATE, {"handle": ROOT, "parent": parent}, root)]
    messages += _classes(payload_bps, qos, burst_limit_bytes, CREATE)
    messages.append(_leaf(CREATE, "bfifo", KV, kv_queue_bytes(payload_bps)))
    messages.append(_leaf(CREATE, "pfifo", MODEL, MODEL_QUEUE_PACKETS))
    if qos:
        messages += by_dscp(MODEL)
    return tuple(messages)


@lru_cache(maxsize=256)
def _rerate(payload_bps: float, qos: bool, burst_limit_bytes: int | None) -> tuple[bytes, ...]:
    queue = _leaf(REPLACE, "bfifo", KV, kv_queue_bytes(payload_bps))
    return (*_classes(payload_bps, qos, burst_limit_bytes, REPLACE), queue)


def shape(
    name: str,
    index: int,
    payload_bps: float,
    qos: bool,
    burst_limit_bytes: int | None,
    parent: int = TC_H_ROOT,
) -> list[Request]:
    """Requests that shape an interface without a root qdisc to a payload rate in bit/s.

    With qos, DSCP EF and CS6 go to class 1:10 (99 % guaranteed, first), all else to 1:20 (1 %);
    each may borrow the whole link. Without, everything shares 1:20. `parent` is the class of
    another qdisc that packets pass first.
    """
    tree = _tree(payload_bps, qos, burst_limit_bytes, parent)
    return addressed(f"shape {name} to {payload_bps:.0f} bit/s", tree, index)


def reshape(
    name: str, index: int, payload_bps: float, qos: bool, burst_limit_bytes: int | None
) -> list[Request]:
    """Requests that change the rate of an interface that `shape` shaped; queues keep what waits."""
    messages = _rerate(payload_bps, qos, burst_limit_bytes)
    return addressed(f"reshape {name} to {payload_bps:.0f} bit/s", messages, index)


def switch_classes(
    name: str,
    index: int,
    payload_bps: float,
    qos: bool,
    burst_limit_bytes: int | None,
    before_dscp: tuple[bytes, ...] = (),
) -> list[Request]:
    """Requests that switch the classes of a shaped interface on or off, or renew its filters.

    Nothing that waits is dropped, and counters go on. `before_dscp` are filters that are asked
    before those by DSCP (see filters.py).
    """
    classes = _classes(payload_bps, qos, burst_limit_bytes, REPLACE)
    filters = (*before_dscp, *by_dscp(MODEL)) if qos else ()
    messages = (*classes, FLUSH, *filters) if qos else (FLUSH, *classes)
    return addressed(f"switch classes of {name} {'on' if qos else 'off'}", messages, index)


def unshape(name: str, index: int, parent: int = TC_H_ROOT) -> list[Request]:
    """Requests that take the shaping off an interface; what waits in it is lost."""
    message = encode(tcmsg, RTM_DELQDISC, NLM_F_REQUEST, {"handle": ROOT, "parent": parent}, [])
    return addressed(f"stop shaping {name}", (message,), index)


def read_class(body: memoryview) -> tuple[int, ClassCounters]:
    """Handle and counters of one dumped class (struct tcmsg, gnet_stats_basic and _queue)."""
    handle = struct.unpack_from("=I", body, 8)[0]
    stats = attributes(attributes(body[20:])[7])
    sent_bytes, sent_packets = struct.unpack_from("=QI", stats[1])
    _, backlog_bytes, dropped_packets = struct.unpack_from("=III", stats[3])
    return handle, ClassCounters(sent_bytes, sent_packets, dropped_packets, backlog_bytes)


def read_backlog(body: memoryview) -> tuple[int, int] | None:
    """Interface index and bytes waiting, if a dumped qdisc is the shaper of an interface."""
    index, handle = struct.unpack_from("=iI", body, 4)
    if handle != ROOT:
        return None
    # struct tc_stats: its last word. TCA_STATS is far shorter to find than TCA_STATS2.
    return index, struct.unpack_from("=I", attributes(body[20:])[3], 32)[0]
