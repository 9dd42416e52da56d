"""A live cluster as other processes see it, by its name."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from testbed.clusters import names, protocol
from testbed.clusters.protocol import (
    Down,
    Enter,
    Look,
    Refused,
    Reply,
    Request,
    ResetLinks,
    SetLink,
    SetMark,
    SetQos,
    View,
)
from testbed.errors import EnvironmentUnfit, InputError, RunFailed
from testbed.fabric.enter import Namespaces, enter_command

ANSWER_S = 30.0  # a cluster that is starting answers when its hosts are up
DOWN_S = 5.0
END_S = 10.0
_ERRORS = {2: InputError, 4: EnvironmentUnfit}


class Cluster:
    """Asks the cluster of that name; InputError if there is none."""

    def __init__(self, name: str | None = None) -> None:
        self.name = names.find(name)

    def look(self, within_s: float = ANSWER_S) -> View:
        """Hosts, links, counters and marks now; RunFailed if it does not answer in time."""
        reply = self._ask(Look(), within_s)[0]
        assert isinstance(reply, View)
        return reply

    def set_link(
        self,
        owner: str,
        nic: str,
        *,
        payload_bps: float | None = None,
        delay_s: float | None = None,
    ) -> None:
        """Change one link; what is None stays."""
        self._ask(SetLink(owner, nic, payload_bps, delay_s))

    def reset_links(self, owner: str | None = None, nic: str | None = None) -> None:
        """Back to the topology's values: one link, or all."""
        self._ask(ResetLinks(owner, nic))

    def set_qos(self, on: bool) -> None:
        """Traffic classes on or off."""
        self._ask(SetQos(on))

    def mark(self, proto: str, port: int, dscp: int | None, host: str | None = None) -> None:
        """Have a port's packets marked, at one host or at all; None removes the mark."""
        self._ask(SetMark(proto, port, dscp, host))

    def enter(self, host: str) -> Namespaces:
        """Descriptors of a host's namespaces, to be closed by the caller."""
        return Namespaces(*self._ask(Enter(host))[1])

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a process in a host; it ends with this one, and with the cluster."""
        with self.enter(host) as namespaces:
            command = enter_command(namespaces, argv, Path.cwd())
            return subprocess.Popen(command, pass_fds=namespaces, **options)

    def down(self) -> None:
        """End it and wait until its last process is gone; one that does not answer is killed.

        Raises RunFailed if even that does not end it.
        """
        own = names.sockets(self.name)  # whoever takes the name meanwhile is another cluster
        try:
            (pidfd,) = self._ask(Down(), DOWN_S)[1]
        except RunFailed:
            pass  # it has ended already, is stopped, or speaks another version
        else:
            try:
                _ended(pidfd)
            finally:
                os.close(pidfd)
        deadline_s = time.monotonic() + END_S
        while own & names.sockets(self.name):
            if time.monotonic() > deadline_s:
                raise RunFailed(f"cluster {self.name} does not end; look at it with `ps`")
            for pidfd in names.holders(own):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _ended(pidfd)
                os.close(pidfd)

    def _ask(self, request: Request, within_s: float = ANSWER_S) -> tuple[Reply, list[int]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(within_s)
            try:
                sock.connect(names.address(self.name))
                sock.sendall(protocol.encode(request))
                answered = protocol.receive_reply(sock)
            except OSError as error:
                raise RunFailed(
                    f"cluster {self.name} does not answer ({error}); it is ending, or stopped"
                ) from error
            except msgspec.MsgspecError as error:
                raise RunFailed(
                    f"cluster {self.name} is of another version of the testbed: testbed down "
                    f"{self.name}, and bring it up again"
                ) from error
        if answered is None:
            raise RunFailed(f"cluster {self.name} ended before it answered; see testbed status")
        reply, fds = answered
        if isinstance(reply, Refused):
            raise _ERRORS.get(reply.exit_code, RunFailed)(reply.message)
        return reply, fds


def _ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], END_S)[0])
