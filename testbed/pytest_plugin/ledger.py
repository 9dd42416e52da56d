"""What a link's classes carried, as the kernel counted it."""

from collections.abc import Callable

from testbed.clusters.protocol import View
from testbed.errors import InputError
from testbed.fabric.wire import KV_CLASS, MODEL_CLASS, ClassCounters
from testbed.yamlfile import nearest

__tracebackhide__ = True  # pytest shows the test's line and the message

HANDLES = {"MODEL": MODEL_CLASS, "KV": KV_CLASS}
CARRIES = {"MODEL": "MODEL and CTRL", "KV": "KV and unmarked"}


class Ledger:
    """What each class of each link carried since the test began, or since `reset`.

    A link's shaper tells two classes apart: "MODEL" takes what is marked MODEL or CTRL and nothing
    else; "KV" takes KV and everything unmarked. Which mark packets had is told by a capture:
    `Network.marks_seen`.
    """

    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look
        self._first = self._start = _payloads(look())

    def reset(self) -> None:
        """Count from here."""
        self._start = _payloads(self._look())

    def sent(self, link: str, traffic_class: str) -> int:
        """Payload bytes that the link's owner sent in a class: MODEL, or KV and unmarked."""
        return self._counted(link, traffic_class)[0]

    def received(self, link: str, traffic_class: str) -> int:
        """Payload bytes that its owner received in a class."""
        return self._counted(link, traffic_class)[1]

    def assert_class(
        self, link: str, traffic_class: str, *, at_least: int = 1, others_at_most: int | None = None
    ) -> None:
        """AssertionError unless the link carried that many payload bytes in the class, both ways.

        What it may have carried in the other class is a hundredth of it, unless it is given. Only
        MODEL proves a mark: KV is also where unmarked packets go.
        """
        mine = sum(self._counted(link, traffic_class))
        (other,) = set(HANDLES) - {traffic_class}
        strayed = sum(self._counted(link, other))
        most = at_least // 100 if others_at_most is None else others_at_most
        this, that = CARRIES[traffic_class], CARRIES[other]
        table = f"{link} carried {mine} payload bytes of {this}, {strayed} of {that}"
        assert mine >= at_least, f"{table}; at least {at_least} of {this} were expected"
        assert strayed <= most, f"{table}; at most {most} of {that} were expected"

    def carried(self) -> dict[str, dict[str, int]]:
        """Payload bytes by link and class since the test began, both ways; without idle links."""
        found: dict[str, dict[str, int]] = {}
        names = {handle: name for name, handle in HANDLES.items()}
        for (link, handle), after in _payloads(self._look()).items():
            payload = sum(after) - sum(self._first.get((link, handle), (0, 0)))
            found.setdefault(link, {})[CARRIES[names[handle]]] = payload
        return {link: classes for link, classes in found.items() if any(classes.values())}

    def _counted(self, link: str, traffic_class: str) -> tuple[int, int]:
        if traffic_class not in HANDLES:
            told = " and ".join(f"{name} ({CARRIES[name]})" for name in HANDLES)
            raise InputError(f"class {traffic_class!r}: links tell {told} apart")
        now = _payloads(self._look())
        key = (link, HANDLES[traffic_class])
        if key not in now:
            known = sorted({name for name, _ in now})
            raise InputError(f"no shaped link {link!r}; {nearest(link, known, 'link')}")
        before, after = self._start.get(key, (0, 0)), now[key]
        return after[0] - before[0], after[1] - before[1]


def _payloads(view: View) -> dict[tuple[str, str], tuple[int, int]]:
    """Payload bytes by link and class, sent and received by the link's owner."""
    found = {}
    for link in view.links:
        if link.classes is None:
            continue
        ends = link.classes.sent, link.classes.received
        for handle in HANDLES.values():
            sent, received = (_payload(end.get(handle)) for end in ends)
            found[f"{link.state.owner}:{link.state.nic}", handle] = (sent, received)
    return found


def _payload(counted: ClassCounters | None) -> int:
    if counted is None:
        return 0
    return counted.payload_bytes
