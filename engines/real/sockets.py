"""Listening and connecting: from addresses to connections, of the kind that their class needs."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from engines.errors import TransferError
from engines.real import routes
from engines.real.connection import Connection
from engines.real.frames import CLASSES
from engines.real.host import Host
from engines.real.routes import TcpConfig
from engines.real.stamped import StampedConnection, StampedServer, StampedTransport, prepare
from engines.seams.transport import TrafficClass

Server = asyncio.Server | StampedServer


async def listen(
    host: Host, config: TcpConfig, servers: list[Server], accepted: Callable[[Connection], None]
) -> None:
    """Listen on every address of a host for the classes that are routed to it.

    Each server is put into `servers` as soon as it listens; raises TransferError for an address
    that cannot be had.
    """

    def accept(traffic_class: TrafficClass) -> Connection:
        connection = Connection(host, traffic_class)
        accepted(connection)
        return connection

    def accept_stamped() -> StampedConnection:
        connection = StampedConnection(host, TrafficClass.MODEL)
        accepted(connection)
        return connection

    loop = asyncio.get_running_loop()
    for traffic_class in CLASSES:
        for address, port in sorted(routes.listening(config, traffic_class)):
            listener = routes.class_socket(config, traffic_class)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((address, port))
                server: Server
                if traffic_class is TrafficClass.MODEL:
                    server = StampedServer(listener, accept_stamped)
                else:
                    accept_one = partial(accept, traffic_class)
                    server = await loop.create_server(accept_one, sock=listener)
            except OSError as error:
                listener.close()
                raise TransferError(
                    f"{host.host} cannot listen on {address}:{port} ({error}); "
                    "choose another port base or end the run that holds it"
                ) from error
            servers.append(server)


async def connect(
    host: Host, config: TcpConfig, peer: str, traffic_class: TrafficClass
) -> Connection:
    """One attempt, HELLO said; OSError if nobody answers, TransferError if that cannot change."""
    here, there = routes.route(config, peer, traffic_class)
    loop = asyncio.get_running_loop()
    sock = routes.class_socket(config, traffic_class)
    try:
        if traffic_class is TrafficClass.MODEL:
            prepare(sock)
        try:
            sock.bind((here, 0))
        except OSError as error:
            raise TransferError(f"{host.host} has no address {here} ({error})") from error
        await loop.sock_connect(sock, there)
        connection: Connection
        if traffic_class is TrafficClass.MODEL:
            connection = StampedConnection(host, traffic_class, peer)
            StampedTransport(sock, connection)
        else:
            _, connection = await loop.create_connection(
                lambda: Connection(host, traffic_class, peer), sock=sock
            )
    except BaseException:
        sock.close()
        raise
    connection.hello()
    host.counts["connections"] += 1
    return connection
