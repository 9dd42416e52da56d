"""HTB shaping with the traffic classes of design.md section 2, for one end of a data link."""

import struct
from functools import lru_cache
from socket import htons
from typing import Any

from pyroute2.netlink.rtnl.tcmsg import cls_u32, plugins, sched_htb, sched_pfifo, tcmsg

from testbed.fabric.netlink import (
    CREATE,
    REPLACE,
    RTM_NEWQDISC,
    RTM_NEWTCLASS,
    RTM_NEWTFILTER,
    Request,
    encode,
)
from testbed.fabric.wire import FRAME_BYTES, SEGMENT_BYTES, ClassCounters

# pyroute2 lacks bfifo, whose one parameter is that of pfifo.
plugins["bfifo"] = sched_pfifo

TC_H_ROOT = 0xFFFFFFFF
ROOT, LINK, MODEL, KV = 0x10000, 0x10001, 0x10010, 0x10020
CLASS_NAMES = {MODEL: "1:10", KV: "1:20"}
KV_SHARE = 0.01
QUANTUM_BYTES = 60_000
MIN_BURST_BYTES = 2 * FRAME_BYTES
MODEL_QUEUE_PACKETS = 1000
KV_QUEUE_S = 0.010
MIN_KV_QUEUE_BYTES = 256 * 1024  # below four full GSO packets a lone flow loses rate
DSCP_OF_MODEL = ("0xb8", "0xc0")  # EF of collectives, CS6 of control, as TOS bytes
_IFINDEX_OFFSET = 20


def wire_bps(payload_bps: float) -> float:
    """What the shaper must pass so that full segments carry this payload rate, in bit/s."""
    return payload_bps * FRAME_BYTES / SEGMENT_BYTES


def burst_bytes(payload_bps: float, limit_bytes: int | None) -> int:
    """What may follow at once after idle: 1 ms, at most the limit, at least two frames."""
    burst = int(wire_bps(payload_bps) / 8 * 1e-3)
    if limit_bytes is not None:
        burst = min(burst, limit_bytes)
    return max(MIN_BURST_BYTES, burst)


def kv_queue_bytes(payload_bps: float) -> int:
    """The KV class's queue limit: 10 ms, at least four GSO packets."""
    return max(MIN_KV_QUEUE_BYTES, int(wire_bps(payload_bps) / 8 * KV_QUEUE_S))


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


def _classes(
    payload_bps: float, qos: bool, burst_limit_bytes: int | None, flags: int
) -> list[bytes]:
    rate = wire_bps(payload_bps)
    burst = burst_bytes(payload_bps, burst_limit_bytes)
    classes = [_class(flags, LINK, ROOT, rate, rate, burst, 0)]
    if qos:
        classes.append(_class(flags, MODEL, LINK, rate * (1 - KV_SHARE), rate, burst, 0))
        classes.append(_class(flags, KV, LINK, rate * KV_SHARE, rate, burst, 1))
    else:
        classes.append(_class(flags, KV, LINK, rate, rate, burst, 0))
    return classes


def _leaf(flags: int, kind: str, parent: int, limit: int) -> bytes:
    fields = {"handle": (parent & 0xFFFF) << 16, "parent": parent}
    return _tc(kind, RTM_NEWQDISC, flags, fields, {"limit": limit})


def _to_model(tos: str) -> bytes:
    fields = {"parent": ROOT, "info": htons(0x0800) | (1 << 16)}
    options = cls_u32.get_parameters({"target": MODEL, "keys": [f"{tos}/0xfc+1"]})
    return _tc("u32", RTM_NEWTFILTER, CREATE, fields, options)


@lru_cache(maxsize=256)
def _tree(payload_bps: float, qos: bool, burst_limit_bytes: int | None) -> tuple[bytes, ...]:
    root = sched_htb.get_parameters({"default": KV & 0xFFFF})
    fields = {"handle": ROOT, "parent": TC_H_ROOT}
    messages = [_tc("htb", RTM_NEWQDISC, CREATE, fields, root)]
    messages += _classes(payload_bps, qos, burst_limit_bytes, CREATE)
    messages.append(_leaf(CREATE, "bfifo", KV, kv_queue_bytes(payload_bps)))
    if qos:
        messages.append(_leaf(CREATE, "pfifo", MODEL, MODEL_QUEUE_PACKETS))
        messages += [_to_model(tos) for tos in DSCP_OF_MODEL]
    return tuple(messages)


@lru_cache(maxsize=256)
def _rerate(payload_bps: float, qos: bool, burst_limit_bytes: int | None) -> tuple[bytes, ...]:
    queue = _leaf(REPLACE, "bfifo", KV, kv_queue_bytes(payload_bps))
    return (*_classes(payload_bps, qos, burst_limit_bytes, REPLACE), queue)


def _addressed(what: str, messages: tuple[bytes, ...], index: int) -> list[Request]:
    requests = []
    for message in messages:
        data = bytearray(message)
        struct.pack_into("=i", data, _IFINDEX_OFFSET, index)
        requests.append(Request(what, bytes(data)))
    return requests


def shape(
    name: str, index: int, payload_bps: float, qos: bool, burst_limit_bytes: int | None
) -> list[Request]:
    """Requests that shape an interface without a root qdisc to a payload rate in bit/s.

    With qos, DSCP EF and CS6 go to class 1:10 (99 % guaranteed, first), all else to 1:20 (1 %);
    each may borrow the whole link. Without, everything shares 1:20.
    """
    tree = _tree(payload_bps, qos, burst_limit_bytes)
    return _addressed(f"shape {name} to {payload_bps:.0f} bit/s", tree, index)


def reshape(
    name: str, index: int, payload_bps: float, qos: bool, burst_limit_bytes: int | None
) -> list[Request]:
    """Requests that change the rate of an interface that `shape` shaped; queues keep what waits."""
    messages = _rerate(payload_bps, qos, burst_limit_bytes)
    return _addressed(f"reshape {name} to {payload_bps:.0f} bit/s", messages, index)


def _attributes(data: memoryview) -> dict[int, memoryview]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def read_class(body: memoryview) -> tuple[int, ClassCounters]:
    """Handle and counters of one dumped class (struct tcmsg, gnet_stats_basic and _queue)."""
    handle = struct.unpack_from("=I", body, 8)[0]
    stats = _attributes(_attributes(body[20:])[7])
    sent_bytes, sent_packets = struct.unpack_from("=QI", stats[1])
    _, backlog_bytes, dropped_packets = struct.unpack_from("=III", stats[3])
    return handle, ClassCounters(sent_bytes, sent_packets, dropped_packets, backlog_bytes)
