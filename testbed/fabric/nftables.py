"""A table of nftables that rewrites DSCP by port, in one namespace, without the program nft.

Every packet that leaves the namespace from or to such a port gets the DSCP, whoever opened the
connection, so that a connection is marked both ways if both its hosts have the rule.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFPROTO_IPV4,
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Cmp,
    Meta,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from pyroute2.nftables.expressions import genex

from testbed.errors import EnvironmentUnfit
from testbed.fabric.filters import PROTOCOLS
from testbed.fabric.namespaces import joined
from testbed.fabric.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, encode

TABLE, CHAIN = "dualpath", "marks"
NLM_F_APPEND = 0x800
_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_LOCAL_OUT, _MANGLE_PRIORITY, _ACCEPT = 3, -150, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_PORT_OFFSETS = (0, 2)  # source, destination: the same in TCP and UDP
_CHECKSUM_OFFSET, _CHECKSUM_INET = 10, 1
_HEADER = struct.Struct("=IHHII")
Rewrite = tuple[str, int, int]


def _message(
    cls: type[Any], kind: int, flags: int, attrs: list[Any], family: int = NFPROTO_IPV4
) -> bytes:
    fields = {"nfgen_family": family, "version": 0, "res_id": 0}
    return encode(cls, NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, fields, attrs)


def _table(kind: int, flags: int = 0) -> bytes:
    return _message(nft_table_msg, kind, flags, [("NFTA_TABLE_NAME", TABLE)])


def _chain() -> bytes:
    hook = [("NFTA_HOOK_HOOKNUM", _LOCAL_OUT), ("NFTA_HOOK_PRIORITY", _MANGLE_PRIORITY)]
    attrs = [
        ("NFTA_CHAIN_TABLE", TABLE),
        ("NFTA_CHAIN_NAME", CHAIN),
        ("NFTA_CHAIN_HOOK", {"attrs": hook}),
        ("NFTA_CHAIN_TYPE", "filter"),
        ("NFTA_CHAIN_POLICY", _ACCEPT),
    ]
    return _message(nft_chain_msg, NFT_MSG_NEWCHAIN, NLM_F_CREATE, attrs)


def _value(data: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def _equals(data: bytes) -> Any:
    return genex("cmp", {"sreg": 1, "op": Cmp.NFT_CMP_EQ, "data": _value(data)})


def _rule(protocol: int, offset: int, port: int, dscp: int) -> bytes:
    # Two bytes are written, because the header's checksum is a sum of such words: version and
    # length stay, and so do the two bits of congestion notification.
    expressions = [
        genex("meta", {"dreg": 1, "key": Meta.NFT_META_L4PROTO}),
        _equals(bytes([protocol])),
        genex("payload", {"dreg": 1, "base": _TRANSPORT_HEADER, "offset": offset, "len": 2}),
        _equals(port.to_bytes(2, "big")),
        genex("payload", {"dreg": 1, "base": _NETWORK_HEADER, "offset": 0, "len": 2}),
        genex(
            "bitwise",
            {
                "sreg": 1,
                "dreg": 1,
                "len": 2,
                "mask": _value(b"\xff\x03"),
                "xor": _value(bytes([0, dscp << 2])),
            },
        ),
        genex(
            "payload",
            {
                "sreg": 1,
                "base": _NETWORK_HEADER,
                "offset": 0,
                "len": 2,
                "csum_type": _CHECKSUM_INET,
                "csum_offset": _CHECKSUM_OFFSET,
            },
        ),
    ]
    attrs = [
        ("NFTA_RULE_TABLE", TABLE),
        ("NFTA_RULE_CHAIN", CHAIN),
        ("NFTA_RULE_EXPRESSIONS", expressions),
    ]
    return _message(nft_rule_msg, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, attrs)


def _transaction(rewrites: Sequence[Rewrite]) -> Iterator[bytes]:
    yield _table(NFT_MSG_NEWTABLE, NLM_F_CREATE)  # so that there is one to delete
    yield _table(NFT_MSG_DELTABLE)
    if rewrites:
        yield _table(NFT_MSG_NEWTABLE, NLM_F_CREATE)
        yield _chain()
    for proto, port, dscp in rewrites:
        for offset in _PORT_OFFSETS:
            yield _rule(PROTOCOLS[proto], offset, port, dscp)


def _border(kind: int) -> bytes:
    fields = {"nfgen_family": socket.AF_UNSPEC, "version": 0, "res_id": NFNL_SUBSYS_NFTABLES}
    return encode(nfgen_msg, kind, NLM_F_REQUEST, fields, [])


def rewrite_dscp(netns_fd: int, rewrites: Sequence[Rewrite]) -> None:
    """Let a namespace have exactly these rewrites (protocol, port, DSCP), all at once.

    A later one wins over an earlier one for the same packet. Raises EnvironmentUnfit if the
    kernel refuses; nothing was changed then.
    """
    messages = [_border(_BATCH_BEGIN), *_transaction(rewrites), _border(_BATCH_END)]
    last = len(messages) - 2
    buffer = bytearray()
    for number, message in enumerate(messages):
        flags = struct.unpack_from("=H", message, 6)[0] | (NLM_F_ACK if number == last else 0)
        start = len(buffer)
        buffer += message
        struct.pack_into("=HI", buffer, start + 6, flags, number)
    try:
        with joined(netns_fd):
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        with sock:
            sock.settimeout(10.0)
            sock.send(buffer)
            errno = _answer(sock, last)
    except OSError as refusal:
        errno = refusal.errno or 0
    if errno:
        raise EnvironmentUnfit(
            f"nftables refused to mark packets by port: {os.strerror(errno)}; run `testbed doctor`"
        )


def _answer(sock: socket.socket, last: int) -> int:
    """The first errno in the answers up to that of the last message, 0 if all went well."""
    while True:
        data = memoryview(sock.recv(1 << 16))
        while len(data) >= _HEADER.size:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            if kind == NLMSG_ERROR:
                errno: int = -struct.unpack_from("=i", data, _HEADER.size)[0]
                if errno or sequence == last:
                    return errno
            data = data[(length + 3) & ~3 :]


def nftables_work(netns_fd: int) -> bool:
    """Whether the kernel can do it, found by trying it and taking it back."""
    try:
        rewrite_dscp(netns_fd, [("tcp", 9, 0)])
        rewrite_dscp(netns_fd, [])
    except EnvironmentUnfit:
        return False
    return True
