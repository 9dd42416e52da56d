"""What a machine did to a run's times: each sign alone, none of them, and more of any."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_metrics import run_data
from test_verdict import sound

from testbed.results.rundata import RunData
from testbed.results.schema import Timing, Verdict
from testbed.results.timing import doubts, evidence, foreign_limit
from testbed.results.verdict import judge
from testbed.worlds.others import Program
from testbed.worlds.samples import Backlogged, Sample, Sleeps

WINDOW = (5.0, 8.0)  # target seconds of the run by hand: six real ones of its twenty
PACKET = 65_536


class Machine(msgspec.Struct, frozen=True):
    """What befell the run by hand; nothing by default. Shares are of the whole run."""

    late_s: float = 0.0
    overruns: int = 0
    late_ticks: int = 0
    delay: float = 0.0
    overshoot_ms: float = 0.0
    foreign: float = 0.0
    own: float = 0.5
    stolen: float = 0.0
    lacking: float = 0.0
    model_drops: int = 0


def run_on(machine: Machine) -> RunData:
    """The run by hand on such a machine of two cores."""
    run = run_data()
    run.accounts["pe0-gpu"].late = [(6.0, machine.late_s)]
    run.accounts["pe0-gpu"].compute["overruns"] = machine.overruns
    run.accounts["de0-gpu"].counts["late_ticks"] = machine.late_ticks
    samples = run.samples
    samples.samples = [at(one, one.at_monotonic_s - 100.0, machine) for one in samples.samples]
    late_us = round(1000 * machine.overshoot_ms)
    samples.sleeps = [Sleeps(100.5 + n, (0,) * 48 + (late_us,) * 2) for n in range(20)]
    nominal = 200 * PACKET
    samples.backlogged = [
        Backlogged(
            "pe0-buf:snic<", 100.0 + n, 0.02, round(nominal * (1 - machine.lacking)), nominal
        )
        for n in range(4)
    ]
    samples.dropped = {"pe0-gpu:cnic>": {"1:10": machine.model_drops, "1:20": 7}}
    run.others = [Program(4711, "thief", 12.25)]
    return run


def at(sample: Sample, since_s: float, machine: Machine) -> Sample:
    own_s = 2 * machine.own * since_s
    return msgspec.structs.replace(
        sample,
        own_s=own_s,
        busy_s=own_s + 2 * machine.foreign * since_s,
        steal_s=2 * machine.stolen * since_s,
        delays_s={"de0-buf": machine.delay * since_s, "pe0-gpu": 0.01 * since_s},
    )


def weighed(**machine: Any) -> Timing:
    found = evidence(run_on(Machine(**machine)), WINDOW)
    assert found is not None
    return found


def causes(**machine: Any) -> list[str]:
    run = run_on(Machine(**machine))
    found = evidence(run, WINDOW)
    assert found is not None
    return doubts(found, run.plan)


def test_a_quiet_machine_gives_no_cause_and_no_note() -> None:
    timing = weighed()
    assert causes() == [] and timing.notes == ()
    assert not timing.delayed
    assert timing.goodput == {"pe0-buf:snic<": 1.0}
    assert timing.drops == {"pe0-gpu:cnic>": {"1:10": 0, "1:20": 7}}  # shown; TCP's own doing
    assert timing.run_delays == pytest.approx({"de0-buf": 0.0, "pe0-gpu": 0.01})


def test_the_evidence_is_part_of_the_result_and_decides_the_verdict() -> None:
    _, result = sound()
    run = run_on(Machine(late_ticks=11))
    result = msgspec.structs.replace(result, timing=evidence(run, result.window_s))
    verdict = judge(run, result)
    assert (verdict.functional, verdict.timing) == ("passed", "inconclusive")
    assert judge(run_on(Machine()), sound()[1]) == Verdict("passed", "faithful", ())


@pytest.mark.parametrize(("machine", "words"), [
    ({"late_s": 2.41}, "prefill layers were 80% of the time late in sum"),  # of three, in target
    ({"overruns": 46}, "46% of layers took longer than the model allows"),
    ({"late_ticks": 11}, "11% of decode ticks came a whole period late"),
    ({"delay": 0.71}, "de0-buf could have run but had no CPU 71% of the time"),
    ({"overshoot_ms": 10.2}, "ended 5.1 ms late or later, in target time"),
    ({"lacking": 0.0705}, "pe0-buf:snic< lacked 6.8% of its rate"),
    ({"model_drops": 1}, "1 packets of class MODEL were dropped (pe0-gpu:cnic>)"),
    ({"foreign": 0.16, "overshoot_ms": 2.2}, "other programs used 16% of the 2 cores"),
    ({"own": 0.96, "overshoot_ms": 2.2}, "the 2 cores were 96% busy"),
])  # fmt: skip
def test_each_sign_alone_is_a_cause(machine: dict[str, float], words: str) -> None:
    (cause,) = causes(**machine)
    assert words in cause and "; " in cause


@pytest.mark.parametrize(("machine", "words"), [
    ({"late_s": 2.39}, "80% of the time late"),
    ({"overruns": 45}, "45% of layers"),
    ({"late_ticks": 10}, "10% of decode ticks"),
    ({"delay": 0.69}, "no CPU 69% of the time"),
    ({"overshoot_ms": 9.8}, "ended 4.9 ms late"),
    ({"lacking": 0.0485}, "lacked 4.6% of its rate"),
    ({"foreign": 0.06}, "other programs used 6% of the 2 cores, which delayed nothing"),
    ({"foreign": 0.45}, "other programs used 45% of the 2 cores, which delayed nothing"),
    ({"own": 0.94}, "the 2 cores were 94% busy"),
])  # fmt: skip
def test_less_of_it_is_a_note_and_no_cause(machine: dict[str, float], words: str) -> None:
    assert causes(**machine) == []
    assert [words in note for note in weighed(**machine).notes].count(True) == 1


def test_a_program_on_an_idle_core_that_delayed_nothing_is_shown_and_harmless() -> None:
    timing = weighed(foreign=0.5)
    assert causes(foreign=0.5) == []
    assert timing.foreign.value == pytest.approx(0.5) and timing.foreign.limit == 0.15
    assert timing.others == [Program(4711, "thief", 12.25)]
    assert len(causes(foreign=0.5, delay=0.5)) == 2  # with the core it stole: foreign and busy


def test_a_cause_says_who_it_was() -> None:
    (cause,) = causes(foreign=0.3, overshoot_ms=3)
    assert "most by thief (process 4711, 12.2 s of CPU): run it again" in cause
    (cause,) = causes(foreign=0.3, stolen=0.29, overshoot_ms=3)
    assert "hypervisor" in cause and "thief" not in cause


@pytest.mark.parametrize(("machine", "scale"), [
    ({"late_s": 4.8}, "4"),  # twice the limit, at two real seconds a target second
    ({"delay": 0.91}, "2.7"),
    ({"overshoot_ms": 15}, "3"),
    ({"late_ticks": 11}, "2.4"),
    ({"own": 1.2, "overshoot_ms": 2.2}, "2.6"),
])  # fmt: skip
def test_a_cause_says_which_time_scale_should_be_enough(
    machine: dict[str, float], scale: str
) -> None:
    (cause,) = causes(**machine)
    assert cause.endswith(f"; set scale.time_scale to {scale}")
    ended = causes(**machine, foreign=0.1)[0]
    assert "; end the other programs, or set scale.time_scale to " in ended


def test_a_cluster_that_is_not_folded_may_be_and_a_large_one_may_be_smaller() -> None:
    run = run_on(Machine(late_ticks=50))
    timing = evidence(run, WINDOW)
    assert timing is not None
    wires = msgspec.structs.replace(run.plan.wires, folded=False)
    (cause,) = doubts(timing, msgspec.structs.replace(run.plan, wires=wires))
    assert cause.endswith(", or cluster.folded to true")
    wires = msgspec.structs.replace(run.plan.wires, decode_nodes=2)
    (cause,) = doubts(timing, msgspec.structs.replace(run.plan, wires=wires))
    assert cause.endswith(", or use fewer nodes")


def test_what_befell_the_steady_window_alone_is_not_thinned_by_the_rest() -> None:
    run = run_on(Machine(overshoot_ms=2.2, own=0.3))
    samples = run.samples.samples
    for index, sample in enumerate(samples):  # 110 to 116 s: half a core of two, for six seconds
        inside_s = min(max(sample.at_monotonic_s - 110.0, 0.0), 6.0) / 2
        samples[index] = msgspec.structs.replace(sample, busy_s=sample.busy_s + inside_s)
    timing = evidence(run, WINDOW)
    assert timing is not None and timing.foreign.value == pytest.approx(0.25)
    assert len(doubts(timing, run.plan)) == 1
    whole = evidence(run, (0.0, 8.0))
    assert whole is not None and whole.foreign.value == pytest.approx(0.075)
    assert doubts(whole, run.plan) == []


def test_few_packets_say_nothing_about_a_link() -> None:
    run = run_on(Machine())
    run.samples.backlogged = [Backlogged("a:snic<", 101.0, 0.01, 0, 49.0 * PACKET)]
    timing = evidence(run, WINDOW)
    assert timing is not None and (timing.goodput, timing.shortfall.value) == ({}, 0.0)


def test_a_host_that_ended_early_waits_no_longer() -> None:
    run = run_on(Machine(delay=0.3))
    run.samples.samples[-1] = msgspec.structs.replace(run.samples.samples[-1], delays_s={})
    timing = evidence(run, WINDOW)
    assert timing is not None and timing.run_delay.value == pytest.approx(0.3)


def test_a_run_with_too_few_looks_is_inconclusive_and_a_virtual_one_has_no_machine() -> None:
    run, result = sound()
    del run.samples.samples[1:]
    assert evidence(run, WINDOW) is None
    blind = msgspec.structs.replace(result, timing=None)
    assert "too few samples" in judge(run, blind).causes[0]
    run.samples.cores = 0
    assert judge(run, blind).timing == "faithful"


def test_less_of_a_machine_of_many_cores_may_be_used_by_others() -> None:
    limits = [foreign_limit(cores) for cores in (1, 2, 4, 16)]
    assert limits == pytest.approx([0.15, 0.15, 0.075, 0.3 / 16])


MACHINES = st.builds(
    Machine,
    late_s=st.floats(0, 4),
    overruns=st.integers(0, 100),
    late_ticks=st.integers(0, 100),
    delay=st.floats(0, 1),
    overshoot_ms=st.floats(0, 30),
    foreign=st.floats(0, 0.5),
    own=st.floats(0, 0.5),
    lacking=st.floats(0, 0.5),
    model_drops=st.integers(0, 2),
)


@given(MACHINES, MACHINES)
def test_more_of_any_sign_never_makes_an_inconclusive_run_faithful(
    machine: Machine, more: Machine
) -> None:
    names = Machine.__struct_fields__
    worse = {name: getattr(machine, name) + getattr(more, name) for name in names}
    before = causes(**{name: getattr(machine, name) for name in names})
    assert len(causes(**worse)) >= len(before)


def test_most_of_a_machine_in_others_hands_is_a_doubt_whatever_it_delayed() -> None:
    assert not weighed(foreign=0.65).delayed
    cause, *_ = causes(foreign=0.65)  # and the cores are full, which it may say as well
    assert "other programs used 65% of the 2 cores, which delayed nothing that shows" in cause
