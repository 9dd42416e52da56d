"""Whether each host's traffic crossed its links in the classes that its transport sent it in.

The shaper counts what was marked, the transport what was meant: where they part, a flow was marked
wrong, and no capture is needed to see it.
"""

from collections import Counter

from testbed.fabric.wire import KV_CLASS, MODEL_CLASS
from testbed.results.rundata import RunData
from testbed.worlds.plan import LOOPBACK

MANAGEMENT = "mgmt"  # control; these links have no classes
CLASS_OF = {MODEL_CLASS: "model", KV_CLASS: "kv"}
# Handshakes, refused ones and selective acknowledgements have headers of other sizes.
SLACK_BYTES, SLACK = 4096, 0.001


def astray(run: RunData) -> list[str]:
    """Hosts that sent in a class fewer bytes than their transport meant for it, or MODEL too many.

    The class of KV may carry more: acknowledgements of what a host received count there. Says
    nothing without classes, and of hosts without a transport that counts or with an unshaped link.
    """
    if not run.has_classes or run.plan.fabric == LOOPBACK:  # there, nobody but the transport counts
        return []
    causes = []
    for host, counted in _sent_by_class(run).items():
        account = run.accounts.get(host)
        if account is None:
            continue
        again = account.retransmitted_bytes
        for handle, name in CLASS_OF.items():
            meant = account.transport.get(f"bytes_sent_{name}")
            if meant is None:
                continue
            slack = SLACK_BYTES + SLACK * meant
            excess = counted[handle] - meant
            if excess < -slack or (handle == MODEL_CLASS and excess > slack + again):
                causes.append(
                    f"{host} sent {meant} bytes of class {name}, and {counted[handle]} left its "
                    f"links in that class ({handle} of the shaper); a flow is marked wrong: "
                    "look at it with `testbed capture`"
                )
    return causes


def _sent_by_class(run: RunData) -> dict[str, Counter[str]]:
    """Payload by class over all links of each host whose data links are all shaped."""
    sent: dict[str, Counter[str]] = {}
    for link, classes in run.samples.class_bytes.items():
        if link.endswith(">"):
            sent.setdefault(link.partition(":")[0], Counter()).update(classes)
    last = run.samples.samples[-1].ports if run.samples.samples else ()
    unshaped = {
        port.host
        for port in last
        if port.nic != MANAGEMENT and f"{port.host}:{port.nic}>" not in run.samples.class_bytes
    }
    return {host: counted for host, counted in sent.items() if host not in unshaped}
