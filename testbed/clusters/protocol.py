"""What is asked of a live cluster, and what it answers: one message each way on a connection."""

import os
import socket

import msgspec

from testbed.fabric.addresses import NicAddress
from testbed.fabric.counters import LinkClasses, LinkCounters
from testbed.fabric.linkstate import LinkState
from testbed.worlds.plan import WirePlan

LIMIT_BYTES = 1 << 16  # of a request; replies have none
MOST_FDS = 8
LAB = "lab"  # stands for a host that has the switches and their ports


class About(msgspec.Struct, frozen=True):
    """Whose network it is: brought `up` by hand, or that of a `run`, with its folder.

    `privilege` is "rootless" or "sudo"; `since_s` is the machine's monotonic time of its start;
    `wires` is its network as planned.
    """

    name: str
    kind: str
    folder: str
    privilege: str
    since_s: float
    wires: WirePlan


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Everything about the cluster now."""


class Enter(msgspec.Struct, frozen=True, tag="enter"):
    """The namespaces of a host, as descriptors in the order of `Namespaces`.

    Switches, and the host `lab`, are the lab's own.
    """

    host: str


class SetLink(msgspec.Struct, frozen=True, tag="set_link"):
    """Change what is not None; rates in payload bit/s."""

    owner: str
    nic: str
    payload_bps: float | None = None
    delay_s: float | None = None


class ResetLinks(msgspec.Struct, frozen=True, tag="reset"):
    """Back to the topology's values: one link, or all without one."""

    owner: str | None = None
    nic: str | None = None


class SetQos(msgspec.Struct, frozen=True, tag="qos"):
    """Traffic classes on or off."""

    on: bool


class SetMark(msgspec.Struct, frozen=True, tag="mark"):
    """Mark what crosses a port of a host (all hosts without one); dscp None removes the mark."""

    proto: str
    port: int
    dscp: int | None
    host: str | None = None


class Down(msgspec.Struct, frozen=True, tag="down"):
    """End; the answer carries a pidfd of PID 1."""


Request = Look | Enter | SetLink | ResetLinks | SetQos | SetMark | Down


class HostView(msgspec.Struct, frozen=True):
    """A host's interfaces, by name."""

    name: str
    nics: dict[str, NicAddress]


class LinkView(msgspec.Struct, frozen=True):
    """A link as it is set, and its counters as its owner sees them."""

    state: LinkState
    counters: LinkCounters
    classes: LinkClasses | None


class MarkView(msgspec.Struct, frozen=True):
    """A mark by port, and what sets it ("nftables" or "u32")."""

    host: str | None
    proto: str
    port: int
    dscp: int
    by: str


class Rate(msgspec.Struct, frozen=True):
    """A payload rate as asked and as measured when the cluster came up, of all links like it."""

    owner: str
    nic: str
    asked_bps: float
    measured_bps: float


class View(msgspec.Struct, frozen=True, tag="view"):
    """The cluster at one moment of the machine's monotonic time.

    `switches` has the switch at the far end of every link, by `owner:nic`.
    """

    about: About
    at_s: float
    phase: str
    qos: bool
    hosts: list[HostView]
    links: list[LinkView]
    marks: list[MarkView]
    switches: dict[str, str]
    rates: list[Rate]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Carried out; descriptors may come with it."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Not carried out, nothing changed; `exit_code` is that of the error's class."""

    message: str
    exit_code: int


Reply = View | Done | Refused

encode = msgspec.msgpack.encode
requests = msgspec.msgpack.Decoder(Request)
replies = msgspec.msgpack.Decoder(Reply)


def send_reply(caller: socket.socket, reply: Reply, fds: list[int]) -> None:
    """Answer without waiting for the caller, and close the descriptors that go with it.

    The reply itself lies in a file of memory that is the first descriptor: a message has a limit,
    which the view of a large cluster is beyond. Raises OSError if the caller is gone.
    """
    held = os.memfd_create("reply", os.MFD_CLOEXEC)
    try:
        with open(held, "wb", closefd=False) as file:
            file.write(encode(reply))
        socket.send_fds(caller, [b"R"], [held, *fds])
    finally:
        for fd in (held, *fds):
            os.close(fd)


def receive_reply(sock: socket.socket) -> tuple[Reply, list[int]] | None:
    """What was answered, and what came with it; None if the other end hung up instead.

    Raises OSError, and msgspec's errors for what is no reply.
    """
    message, fds, _, _ = socket.recv_fds(sock, 1, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    if not message or not fds:
        return None
    with open(fds[0], "rb") as file:
        return replies.decode(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)), fds[1:]
