"""PID 1's end of a cluster's control socket: what is asked is carried out between two looks."""

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scheduler.errors import DualPathError
from testbed.clusters import protocol
from testbed.clusters.protocol import (
    About,
    Done,
    Down,
    Enter,
    HostView,
    LinkView,
    Look,
    MarkView,
    Rate,
    Refused,
    Reply,
    Request,
    ResetLinks,
    SetLink,
    SetMark,
    SetQos,
    View,
)
from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric.namespaces import open_current
from testbed.worlds.samples import Change
from testbed.yamlfile import nearest

if TYPE_CHECKING:
    from testbed.fabric.calibrate import Calibrated
    from testbed.fabric.fabric import Fabric

CONTROL_ENV = "DUALPATH_CONTROL_FD"
LAB = "lab"  # where the switches are
ASK_S = 0.5  # how long a caller may take to say what it wants
Answer = tuple[Reply, list[int]]


class Control:
    """Serves one cluster; `serve` is called when the socket is readable."""

    def __init__(
        self,
        listener: socket.socket,
        about: About,
        fabric: "Fabric",
        calibrated: "Sequence[Calibrated]" = (),
    ) -> None:
        self._listener = listener
        self._about = about
        self.fabric = fabric
        self._rates = [
            Rate(one.owner, one.nic, one.asked_bps, one.measured_bps) for one in calibrated
        ]
        self.phase = "starting"
        self.changes: list[Change] = []
        self._handlers: dict[type[Any], Callable[[Any], Answer]] = {
            Look: self._look,
            Enter: self._enter,
            SetLink: self._set_link,
            ResetLinks: self._reset,
            SetQos: self._set_qos,
            SetMark: self._set_mark,
            Down: self._down,
        }

    def fileno(self) -> int:
        """For a selector."""
        return self._listener.fileno()

    def serve(self) -> None:
        """Answer one caller; SystemExit once the cluster is to end."""
        caller, _ = self._listener.accept()
        with caller:
            caller.settimeout(ASK_S)
            try:
                message = caller.recv(protocol.LIMIT_BYTES)
                if not message or not _is_ours(caller):
                    return
                asked = protocol.requests.decode(message)
                reply, fds = self._answer(asked)
                _send(caller, reply, fds)
            except OSError:
                return  # the caller is gone, or too slow
        if isinstance(asked, Down):
            sys.exit(0)

    def _answer(self, asked: Request) -> Answer:
        try:
            return self._handlers[type(asked)](asked)
        except DualPathError as error:
            return Refused(str(error), int(getattr(error, "exit_code", 1))), []

    def _look(self, _: Look) -> Answer:
        fabric = self.fabric
        counters, classes = fabric.counters(), fabric.class_counters()
        links = [
            LinkView(state, counters[key], classes.get(key))
            for state in fabric.links()
            for key in [(state.owner, state.nic)]
        ]
        hosts = [HostView(name, net.nics) for name, net in fabric.hosts.items()]
        marks = [MarkView(m.host, m.proto, m.port, m.dscp, m.by) for m in fabric.marks()]
        now_s = time.monotonic()
        switches = _switches(fabric.topo)
        return View(
            self._about, now_s, self.phase, fabric.qos, hosts, links, marks, switches, self._rates
        ), []

    def _enter(self, asked: Enter) -> Answer:
        hosts, switches = self.fabric.hosts, _switches(self.fabric.topo).values()
        known = [*hosts, LAB]
        if asked.host not in known and asked.host not in switches:
            near = nearest(asked.host, known, "host")
            raise InputError(f"cluster {self._about.name} has no host {asked.host!r}; {near}")
        fds = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt", "pid")]
        fds.append(os.dup(hosts[asked.host].netns_fd) if asked.host in hosts else open_current())
        return Done(), fds

    def _set_link(self, asked: SetLink) -> Answer:
        state = self.fabric.set_link(
            (asked.owner, asked.nic), payload_bps=asked.payload_bps, delay_s=asked.delay_s
        )
        words = f"{asked.owner}:{asked.nic}"
        if asked.payload_bps is not None:
            words = f"{words} to {asked.payload_bps / 1e6:.6g} Mbit/s"
        if asked.delay_s is not None:
            words = f"{words}, delayed by {state.delay_s * 1e3:g} ms"
        return self._changed("link", words)

    def _reset(self, asked: ResetLinks) -> Answer:
        if asked.owner is None or asked.nic is None:
            self.fabric.reset()
        else:
            self.fabric.reset_link((asked.owner, asked.nic))
        which = "all links" if asked.owner is None else f"{asked.owner}:{asked.nic}"
        return self._changed("link", f"{which} as in the topology")

    def _set_qos(self, asked: SetQos) -> Answer:
        self.fabric.set_qos(asked.on)
        return self._changed("qos", f"classes {'on' if asked.on else 'off'}")

    def _set_mark(self, asked: SetMark) -> Answer:
        if asked.dscp is None:
            self.fabric.unmark(asked.host, asked.proto, asked.port)
        else:
            self.fabric.mark(asked.host, asked.proto, asked.port, asked.dscp)
        mark = "no longer marked" if asked.dscp is None else f"marked DSCP {asked.dscp}"
        where = asked.host or "every host"
        return self._changed("mark", f"{asked.proto}/{asked.port} at {where} {mark}")

    def _changed(self, kind: str, what: str) -> Answer:
        self.changes.append(Change(time.monotonic(), kind, what))
        return Done(), []

    def _down(self, _: Down) -> Answer:
        return Done(), [os.pidfd_open(os.getpid())]


def _switches(topo: Any) -> dict[str, str]:
    """The switch at the far end of every link, by `owner:nic`; an uplink's owner is its node."""
    found = {}
    for owner, switch, info in topo.links(withInfo=True):
        if info["nic"] == "uplink":
            owner = info["intfName1"].removesuffix("-uplink")
        found[f"{owner}:{info['nic']}"] = switch
    return found


def handed_on(listener: socket.socket) -> dict[str, str]:
    """The environment that tells a private program of the socket; pass its descriptor as well."""
    return {CONTROL_ENV: str(listener.fileno())}


def inherited_listener() -> socket.socket:
    """The control socket that the supervisor bound outside and handed on."""
    value = os.environ.pop(CONTROL_ENV, None)
    if value is None:
        raise EnvironmentUnfit("no control socket was handed on; start clusters by testbed up")
    listener = socket.socket(fileno=int(value))
    listener.set_inheritable(False)
    return listener


def _is_ours(caller: socket.socket) -> bool:
    """Whether the caller is of the user who owns the cluster; abstract sockets ask nobody."""
    uid = int.from_bytes(
        caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], "little"
    )
    return uid == os.getuid()


def _send(caller: socket.socket, reply: Reply, fds: list[int]) -> None:
    try:
        socket.send_fds(caller, [protocol.encode(reply)], fds)
    finally:
        for fd in fds:
            os.close(fd)
