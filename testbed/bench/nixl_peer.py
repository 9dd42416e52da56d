"""One end of a NIXL transfer over UCX TCP; a script for a Python that has `nixl-cu12`.

argv: "serve" (its memory is read) or "read" (it reads), address of its NIC's name, piece bytes,
pool bytes, and the fd of a stream socket to the other end. Both stop when the fd of the lab, the
last argument, is closed. Kept apart from the package: that Python has none of its libraries.
"""

import ctypes
import importlib
import mmap
import os
import select
import socket
import struct
import sys
from typing import Any

IN_FLIGHT = 2  # lists of reads, each of LIST_BYTES, like the transport's own lists of writes
LIST_BYTES = 4 << 20
CHECKED_EVERY = 64  # turns of the polling loop between two looks at the lab


def settings(nic: str) -> dict[str, str]:
    """What UCX must be told before NIXL is imported.

    Without the first it crosses namespaces by shared memory and never touches the link; with
    UCX's own thresholds a read of host memory over TCP is half as fast.
    """
    return {
        "UCX_TLS": "tcp", "UCX_NET_DEVICES": nic, "UCX_RNDV_THRESH": "inf",
        "UCX_TCP_TX_SEG_SIZE": "256K", "UCX_TCP_RX_SEG_SIZE": "256K", "UCX_MODULES": "^ib",
        "NIXL_LOG_LEVEL": "ERROR", "UCX_LOG_LEVEL": "error",
    }  # fmt: skip


def pool(length: int, fill: int) -> tuple[mmap.mmap, int]:
    """Pre-faulted memory and its address."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    memory = mmap.mmap(-1, length, flags=flags)
    memory.write(bytes([fill]) * length)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def put(sock: socket.socket, data: bytes) -> None:
    """One message to the other end."""
    sock.sendall(struct.pack("!I", len(data)) + data)


def take(sock: socket.socket) -> bytes:
    """One message of the other end."""
    (length,) = struct.unpack("!I", sock.recv(4, socket.MSG_WAITALL))
    return sock.recv(length, socket.MSG_WAITALL)


def ended(lab: int) -> bool:
    """Whether the lab wants no more."""
    return bool(select.select([lab], [], [], 0)[0])


def serve(agent: Any, lab: int) -> None:
    """Let NIXL move what is read from here; without its thread it must be asked to."""
    turn = 0
    while turn % CHECKED_EVERY or not ended(lab):
        agent.get_new_notifs()
        turn += 1


def read(
    agent: Any, memory: mmap.mmap, address: int, pieces: int, piece: int, other: socket.socket,
    lab: int,
) -> None:  # fmt: skip
    """Read the other end's memory into ours, list by list, until the lab wants no more."""
    name = agent.add_remote_agent(take(other))
    there = struct.unpack("!Q", take(other))[0]
    per_list = max(1, LIST_BYTES // piece)
    lists = []
    for first in range(0, pieces, per_list):
        offsets = [number * piece for number in range(first, min(first + per_list, pieces))]
        sides = [[(base + at, piece, 0) for at in offsets] for base in (address, there)]
        local, remote = (agent.get_xfer_descs(side, "DRAM") for side in sides)
        lists.append((agent.initialize_xfer("READ", local, remote, name), len(offsets) * piece))
    moved = started = turn = 0
    waiting: list[int] = []
    while turn % CHECKED_EVERY or not ended(lab):
        turn += 1
        while len(waiting) < min(IN_FLIGHT, len(lists)):
            agent.transfer(lists[started % len(lists)][0])
            waiting.append(started % len(lists))
            started += 1
        state = agent.check_xfer_state(lists[waiting[0]][0])
        if state == "DONE":
            moved += lists[waiting.pop(0)][1]
        elif state == "ERR":
            raise SystemExit("NIXL says ERR of a read")
    # Only what came last is sure to be the other end's: its bytes are not ours.
    exact = memory[:piece] == bytes([1]) * piece
    os.write(lab, f"{moved} {int(exact)}\n".encode())


def main() -> None:
    """Register memory, exchange names, and move bytes."""
    role, nic = sys.argv[1:3]
    piece, length, other_fd, lab = map(int, sys.argv[3:7])
    os.environ.update(settings(nic))
    api = importlib.import_module("nixl_cu12._api")
    config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
    agent = api.nixl_agent(role, config)
    memory, address = pool(length, 1 if role == "serve" else 2)
    agent.register_memory(agent.get_reg_descs([(address, length, 0, "")], "DRAM"))
    other = socket.socket(fileno=other_fd)
    if role == "serve":
        put(other, agent.get_agent_metadata())
        put(other, struct.pack("!Q", address))
        serve(agent, lab)
    else:
        read(agent, memory, address, length // piece, piece, other, lab)
    os._exit(0)  # UCX's own farewell waits for a peer that may be gone


main()
