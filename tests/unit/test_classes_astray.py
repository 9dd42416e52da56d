"""A flow that is marked wrong is seen at the end of a run, without a capture."""

import msgspec
import pytest
from test_metrics import run_data
from test_verdict import judged, sound

from testbed.results.classes import SLACK_BYTES, astray
from testbed.results.rundata import RunData

MEANT_MODEL, MEANT_KV = 500_000, 20_000_000


def met(model: int, kv: int, again: int = 0) -> RunData:
    """A run in which pe0-gpu's links counted this, and its transport sent what is meant."""
    run = run_data()
    account = run.accounts["pe0-gpu"]
    account.transport = {"bytes_sent_model": MEANT_MODEL, "bytes_sent_kv": MEANT_KV}
    account.retransmitted_bytes = again
    run.samples.class_bytes["pe0-gpu:cnic>"] = {"1:10": model, "1:20": kv}
    run.samples.class_bytes["pe0-gpu:cnic<"] = {"1:10": 0, "1:20": 0}  # not what it sent
    return run


@pytest.mark.parametrize(("model", "kv", "again"), [
    (MEANT_MODEL, MEANT_KV, 0),
    (MEANT_MODEL + 210, MEANT_KV + 78, 0),  # handshakes
    (MEANT_MODEL - 300, MEANT_KV, 0),  # refused ones: their headers are short
    (MEANT_MODEL, MEANT_KV + 900_000, 0),  # acknowledgements of many lost segments
    (MEANT_MODEL + 90_000, MEANT_KV, 90_000),  # sent again
])  # fmt: skip
def test_what_counters_cannot_tell_to_the_byte_is_no_fault(model: int, kv: int, again: int) -> None:
    assert astray(met(model, kv, again)) == []


@pytest.mark.parametrize(("model", "kv", "names"), [
    (0, MEANT_KV + MEANT_MODEL, ["model"]),  # collectives without their mark
    (MEANT_MODEL - 40_000, MEANT_KV + 40_000, ["model"]),  # one of many flows
    (MEANT_MODEL + 100_000, MEANT_KV - 100_000, ["model", "kv"]),  # KV with their mark
    (MEANT_MODEL + 5_000, MEANT_KV - 5_000, ["model"]),
])  # fmt: skip
def test_a_flow_in_the_wrong_class_is_named_with_its_host(
    model: int, kv: int, names: list[str]
) -> None:
    causes = astray(met(model, kv))
    assert [cause.split(" of class ")[1].split(",")[0] for cause in causes] == names
    assert causes[0].startswith(f"pe0-gpu sent {MEANT_MODEL} bytes of class model, and {model} ")


def test_it_fails_the_run() -> None:
    run, result = sound()
    run.accounts["pe0-gpu"].transport = {"bytes_sent_model": 5 * SLACK_BYTES, "bytes_sent_kv": 0}
    found = judged(run, result)
    assert found.functional == "failed"
    (cause,) = found.causes
    assert "pe0-gpu sent 20480 bytes of class model, and 55 left" in cause


def test_it_says_nothing_where_nothing_can_be_told() -> None:
    run = met(0, 0)
    wires = msgspec.structs.replace(run.plan.wires, qos=False)
    run.plan = msgspec.structs.replace(run.plan, wires=wires)
    assert astray(run) == []  # one class for all
    run = met(0, 0)
    run.accounts["pe0-gpu"].transport = {"writes": 3}
    assert astray(run) == []  # a transport of virtual time counts no classes
    run = met(0, 0)
    run.samples.class_bytes.pop("store0:snic>")
    run.accounts["store0"] = msgspec.structs.replace(run.accounts["pe0-gpu"], host="store0")
    assert len(astray(run)) == 2  # and nothing of store0, whose link is not shaped
    run.samples.class_bytes["store0:pcie>"] = {"1:10": 0, "1:20": 0}
    assert len(astray(run)) == 2  # nor if only one of its links is
