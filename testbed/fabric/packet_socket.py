"""Opens a packet socket in the host that it is run in, and hands it to whoever asked.

Run by path as `python -I packet_socket.py FD`, FD being a connected Unix socket: it needs the
standard library alone. The socket receives nothing until it is bound. Then this stays until the
other end closes: if it ends earlier, its cluster has, although the socket keeps the network alive.
"""

import json
import socket
import sys

CANNOT = 4


def main() -> int:
    """Send the socket, with the names of the interfaces that it could be bound to."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        names = sorted(name for _, name in socket.if_nameindex())
        try:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except OSError as error:
            print(f"a packet socket was refused: {error.strerror}", file=sys.stderr)
            return CANNOT
        socket.send_fds(channel, [json.dumps(names).encode()], [opened.fileno()])
        opened.close()
        channel.recv(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
