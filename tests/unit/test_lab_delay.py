"""Who makes delays is decided once: the kernel for all links, or the transport for all."""

import msgspec
import pytest
from test_layout import plan

from testbed.delays import DUE_TIME, NETEM, NOBODY
from testbed.errors import EnvironmentUnfit
from testbed.fabric import delay, namespaces, netlink
from testbed.worlds.lab import delay_by, netem_delays_s
from testbed.worlds.plan import WirePlan


class Lab:
    """A request socket of nothing."""

    def close(self) -> None:
        pass


def wires(**delays_s: float) -> WirePlan:
    found = {link.replace("_", ":"): delay_s for link, delay_s in delays_s.items()}
    return msgspec.structs.replace(plan().wires, delays_s=found)


@pytest.mark.parametrize("netem", [True, False])
def test_the_kernel_makes_them_if_it_can(monkeypatch: pytest.MonkeyPatch, netem: bool) -> None:
    monkeypatch.setattr(namespaces, "require_private", lambda: None)
    monkeypatch.setattr(netlink, "Rtnetlink", Lab)
    monkeypatch.setattr(delay, "netem_works", lambda lab: netem)
    assert delay_by(wires(), 2.0) == NOBODY
    some = wires(pe0_uplink=0.5, store0_snic=3.0)
    assert delay_by(some, 2.0) == (NETEM if netem else DUE_TIME)
    assert delay_by(some, 4.0) == DUE_TIME  # 12 real seconds are more than the fabric makes
    assert netem_delays_s(some, 2.0) == {("pe0", "uplink"): 1.0, ("store0", "snic"): 6.0}


def test_the_kernel_is_tried_in_private_namespaces_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(lab: object) -> bool:
        raise AssertionError("the machine's own lo was touched")

    monkeypatch.setattr(delay, "netem_works", touched)
    with pytest.raises(EnvironmentUnfit, match="not PID 1"):
        delay_by(wires(pe0_uplink=0.5), 1.0)
