"""Who makes delays is decided once: the kernel for all links, or the transport for all."""

import msgspec
import pytest
from test_layout import plan

from testbed.errors import EnvironmentUnfit
from testbed.fabric import delay, namespaces, netlink
from testbed.worlds.plan import WirePlan
from testbed.worlds.wires import netem_delays_s


class Lab:
    """A request socket of nothing."""

    def close(self) -> None:
        pass


def wires(time_scale: float, **delays_s: float) -> WirePlan:
    found = {link.replace("_", ":"): delay_s for link, delay_s in delays_s.items()}
    return msgspec.structs.replace(plan().wires, delays_s=found, time_scale=time_scale)


@pytest.mark.parametrize("netem", [True, False])
def test_the_kernel_makes_them_if_it_can(monkeypatch: pytest.MonkeyPatch, netem: bool) -> None:
    monkeypatch.setattr(namespaces, "require_private", lambda: None)
    monkeypatch.setattr(netlink, "Rtnetlink", Lab)
    monkeypatch.setattr(delay, "netem_works", lambda lab: netem)
    assert netem_delays_s(wires(2.0)) == {}
    some = {"pe0_uplink": 0.5, "store0_snic": 3.0}
    real_s = {("pe0", "uplink"): 1.0, ("store0", "snic"): 6.0}
    assert netem_delays_s(wires(2.0, **some)) == (real_s if netem else {})
    assert netem_delays_s(wires(4.0, **some)) == {}  # 12 real seconds: more than netem is asked for


def test_the_kernel_is_tried_in_private_namespaces_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(lab: object) -> bool:
        raise AssertionError("the machine's own lo was touched")

    monkeypatch.setattr(delay, "netem_works", touched)
    with pytest.raises(EnvironmentUnfit, match="not PID 1"):
        netem_delays_s(wires(1.0, pe0_uplink=0.5))
