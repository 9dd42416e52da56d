"""What a host's TCP has delivered and what its processes have used, from the kernel's books."""

import socket
import struct
from pathlib import Path

from testbed.errors import EnvironmentUnfit
from testbed.fabric.namespaces import joined

_DIAG_BY_FAMILY, _TCP_INFO, _ESTABLISHED, _LISTENING = 20, 2, 1, 10
_DUMP = 0x301  # NLM_F_REQUEST, and NLM_F_DUMP
_DONE, _ERROR = 3, 2
_MESSAGE_BYTES = 72  # struct inet_diag_msg
_BYTES_RECEIVED = 128  # its place in struct tcp_info
_HEADER = struct.Struct("=IHHII")


class Meter:
    """Counts, by local port, the payload that TCP connections of one host received in order.

    The same for every program: it does not ask the program.
    """

    def __init__(self, netns_fd: int) -> None:
        with joined(netns_fd):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)  # SOCK_DIAG
        self._socket.settimeout(5.0)

    def received(self) -> list[tuple[int, int]]:
        """Local port and bytes received of every established connection."""
        return self._dump(_ESTABLISHED)

    def listening(self) -> int:
        """How many sockets listen."""
        return len(self._dump(_LISTENING))

    def _dump(self, state: int) -> list[tuple[int, int]]:
        wanted = struct.pack(
            "=BBBxI48x", socket.AF_INET, socket.IPPROTO_TCP, 1 << (_TCP_INFO - 1), 1 << state
        )
        header = _HEADER.pack(_HEADER.size + len(wanted), _DIAG_BY_FAMILY, _DUMP, 1, 0)
        self._socket.send(header + wanted)
        found: list[tuple[int, int]] = []
        while True:
            data = memoryview(self._socket.recv(1 << 18))
            while len(data) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise EnvironmentUnfit(
                        "this kernel does not tell what TCP received (sock_diag); "
                        "use one with CONFIG_INET_DIAG"
                    )
                found.append(_read(data[_HEADER.size : length]))
                data = data[(length + 3) & ~3 :]


def _read(body: memoryview) -> tuple[int, int]:
    (port,) = struct.unpack_from("!H", body, 4)
    rest = body[_MESSAGE_BYTES:]
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        if kind == _TCP_INFO:
            (received,) = struct.unpack_from("=Q", rest, 4 + _BYTES_RECEIVED)
            return port, received
        rest = rest[(length + 3) & ~3 :]
    return port, 0


def cpu_s(pids: list[int]) -> float:
    """Seconds that all threads of these processes have been on a CPU."""
    total_ns = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total_ns += int(path.read_text().split()[0])
    return total_ns / 1e9
