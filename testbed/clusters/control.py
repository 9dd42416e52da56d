"""PID 1's end of a cluster's control socket: what is asked is carried out between two looks."""

import os
import selectors
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from scheduler.errors import DualPathError
from testbed.clusters import protocol
from testbed.clusters.protocol import (
    LAB,
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
MOST_CALLERS = 64  # at a time that have said nothing yet
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
        self._callers: list[socket.socket] = []  # that have not said yet what they want
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
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
        """For a selector: readable when somebody calls, or says what it wants."""
        return self._selector.fileno()

    def serve(self) -> None:
        """Answer whoever has asked, waiting for nobody; SystemExit once the cluster is to end."""
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data in self._callers:  # else it was dismissed a moment ago
                self._hear(key.data)

    def _accept(self) -> None:
        try:
            caller, _ = self._listener.accept()
        except OSError:  # it is gone again
            return
        if not _is_ours(caller):
            return caller.close()
        caller.setblocking(False)
        self._selector.register(caller, selectors.EVENT_READ, caller)
        self._callers.append(caller)
        if len(self._callers) > MOST_CALLERS:  # the one that has been silent for longest
            self._dismiss(self._callers[0])

    def _dismiss(self, caller: socket.socket) -> None:
        self._callers.remove(caller)
        self._selector.unregister(caller)
        caller.close()

    def _hear(self, caller: socket.socket) -> None:
        asked: Request | None = None
        with suppress(OSError):  # the caller is gone
            if message := caller.recv(protocol.LIMIT_BYTES):
                try:
                    asked = protocol.requests.decode(message)
                except msgspec.MsgspecError as error:
                    protocol.send_reply(caller, _malformed(self._about.name, error), [])
                else:
                    protocol.send_reply(caller, *self._answer(asked))
        self._dismiss(caller)
        if isinstance(asked, Down):
            sys.exit(0)

    def _answer(self, asked: Request) -> Answer:
        try:
            return self._handlers[type(asked)](asked)
        except DualPathError as error:
            return Refused(str(error), int(getattr(error, "exit_code", 1))), []
        except Exception as error:  # whatever a caller brings about, the cluster goes on
            traceback.print_exc()
            return Refused(
                f"cluster {self._about.name} could not carry out {type(asked).__name__}: "
                f"{type(error).__name__}: {error}; its log says where: testbed logs "
                f"{self._about.name} --host {LAB}",
                1,
            ), []

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
        which = "all links"
        if asked.owner is None and asked.nic is None:
            self.fabric.reset()
        else:
            which = f"{asked.owner}:{asked.nic}"
            self.fabric.reset_link((str(asked.owner), str(asked.nic)))
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
    # A host process that still held it would have callers wait for an answer from nobody.
    os.register_at_fork(after_in_child=listener.close)
    return listener


def _is_ours(caller: socket.socket) -> bool:
    """Whether the caller is of the user who owns the cluster; abstract sockets ask nobody."""
    uid = int.from_bytes(
        caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], "little"
    )
    return uid == os.getuid()


def _malformed(name: str, error: msgspec.MsgspecError) -> Refused:
    return Refused(
        f"cluster {name} did not understand what it was asked ({error}); it is of another version "
        f"of the testbed: testbed down {name}, and bring it up again",
        1,
    )
