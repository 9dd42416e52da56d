"""Addresses and ports of this machine that one run has for itself.

Runs do not know of each other, and other programs listen where they like: so a place is drawn by
lot, tried, and guarded. A place is an address and four ports, one for each class and one that is
bound without ever listening: who holds that has the place, and nobody can hold it twice.
"""

import errno
import random
import socket
from collections.abc import Sequence

import msgspec

from engines.real.frames import CLASSES
from testbed.errors import EnvironmentUnfit
from topologies.shape import Nic

GUARD = len(CLASSES)  # behind the classes' ports
PLACE_PORTS = GUARD + 1
# Above what programs are known for, below what systems give to those who dial.
FIRST_PORT, END_PORT = 10_240, 32_000
FIRST_OCTET, LAST_OCTET = 16, 254  # of 127.x; lower ones are in use here and there
NETWORKS = ("storage", "compute", "mgmt")
NETWORK_ADDRESSES = 1 << 14  # of each within 127.x/16
ONLY = "127.0.0.1"  # what systems have that are not Linux
MOST_DRAWS = 200


class Reservation(msgspec.Struct, frozen=True):
    """The transport's directory, and what keeps others away for as long as it is referenced."""

    directory: dict[str, dict[str, str]]
    guards: tuple[socket.socket, ...]


def reserve(
    nics: Sequence[Nic], draw: random.Random | None = None, whole: bool | None = None
) -> Reservation:
    """A place for every NIC: addresses of 127.0.0.0/8, or ports of 127.0.0.1 where `whole` is not.

    By default it is tried which there is. Raises EnvironmentUnfit if nothing free was found.
    """
    draw = draw or random.SystemRandom()
    if whole is None:
        whole = _has_address(f"127.{FIRST_OCTET}.0.1")
    return _addresses(nics, draw) if whole else _ports(nics, draw)


def _addresses(nics: Sequence[Nic], draw: random.Random) -> Reservation:
    """An address for every NIC, all with the same ports."""
    for _ in range(MOST_DRAWS):
        octet, base = draw.randint(FIRST_OCTET, LAST_OCTET), _base(draw)
        guard = _bound(f"127.{octet}.255.254", base + GUARD, exclusive=True)
        if guard is None:
            continue
        directory: dict[str, dict[str, str]] = {}
        used = dict.fromkeys(NETWORKS, 0)
        for nic in nics:
            used[nic.network] += 1
            number = NETWORKS.index(nic.network) * NETWORK_ADDRESSES + used[nic.network]
            address = f"127.{octet}.{number >> 8}.{number & 255}"
            directory.setdefault(nic.host, {})[nic.network] = f"{address}:{base}"
        places = [word.partition(":")[0] for own in directory.values() for word in own.values()]
        if all(_free(address, base) for address in places):
            return Reservation(directory, (guard,))
        guard.close()
    raise _nothing_free(f"127.{FIRST_OCTET}.0.0 to 127.{LAST_OCTET}.255.255")


def _ports(nics: Sequence[Nic], draw: random.Random) -> Reservation:
    """One address for all, with ports of its own for every host."""
    guards: dict[str, socket.socket] = {}
    directory: dict[str, dict[str, str]] = {}
    for nic in nics:
        if nic.host not in directory:
            base, guards[nic.host] = _port_place(draw)
            directory[nic.host] = {}
            word = f"{ONLY}:{base}"
        directory[nic.host][nic.network] = word
    return Reservation(directory, tuple(guards.values()))


def _port_place(draw: random.Random) -> tuple[int, socket.socket]:
    for _ in range(MOST_DRAWS):
        base = _base(draw)
        guard = _bound(ONLY, base + GUARD, exclusive=True)
        if guard is None:
            continue
        if _free(ONLY, base):
            return base, guard
        guard.close()
    raise _nothing_free(ONLY)


def _nothing_free(where: str) -> EnvironmentUnfit:
    return EnvironmentUnfit(
        f"no free ports between {FIRST_PORT} and {END_PORT} were found on {where} in {MOST_DRAWS} "
        "draws; end other runs or programs that listen there"
    )


def _base(draw: random.Random) -> int:
    return FIRST_PORT + PLACE_PORTS * draw.randrange((END_PORT - FIRST_PORT) // PLACE_PORTS)


def _has_address(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _free(address: str, base: int) -> bool:
    """Whether nobody listens on the classes' ports."""
    for number in range(len(CLASSES)):
        probe = _bound(address, base + number, exclusive=False)
        if probe is None:
            return False
        probe.close()
    return True


def _bound(address: str, port: int, exclusive: bool) -> socket.socket | None:
    """A socket there, None if the place is taken; shared with connections that are ending."""
    sock = socket.socket()
    if not exclusive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise
    return sock
