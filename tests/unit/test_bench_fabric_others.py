"""What others disturb is measured again, and whether they do is not read off the result."""

from testbed.bench.fabric_jobs import BulkResult, Failed, Others
from testbed.bench.fabric_others import TRIES, Patience, Result, Window

QUIET, FOREIGN, STOLEN = Others(), Others(foreign_cpus=0.5), Others(stolen_cpus=0.05)


class Trials:
    """Results in turn; `made` counts how many were asked for."""

    def __init__(self, *results: Result) -> None:
        self._results = results
        self.made = 0

    def __call__(self) -> Result:
        self.made += 1
        return self._results[self.made - 1]


def result(goodput_bps: float, others: Others) -> BulkResult:
    return BulkResult(goodput_bps, 0.4, 1.0, others)


def test_a_bad_result_of_a_quiet_machine_counts() -> None:
    trials = Trials(result(1.0, QUIET), result(9e9, QUIET))
    assert Patience().spent_on(trials) == result(1.0, QUIET)
    assert trials.made == 1


def test_what_others_disturbed_is_repeated_however_good_it_is() -> None:
    trials = Trials(result(9e9, FOREIGN), result(8e9, STOLEN), result(5.0, QUIET))
    found = Patience().spent_on(trials)
    assert isinstance(found, BulkResult)
    assert (found.goodput_bps, found.repeats) == (5.0, 2)


def test_on_a_machine_that_is_never_quiet_the_try_that_was_spared_most_counts() -> None:
    tries = [result(float(number), Others(1.0 + (number != 2))) for number in range(TRIES)]
    found = Patience().spent_on(Trials(*tries))
    assert isinstance(found, BulkResult)
    assert found.goodput_bps == 2.0 and found.others.disturb and found.repeats == TRIES - 1


def test_repeats_end_and_then_the_first_try_counts() -> None:
    patience = Patience(repeats=1)
    assert patience.spent_on(one := Trials(*[result(1.0, FOREIGN)] * TRIES)) is not None
    assert patience.spent_on(two := Trials(*[result(1.0, FOREIGN)] * TRIES)) is not None
    assert (one.made, two.made) == (2, 1)


def test_a_failure_is_no_disturbance() -> None:
    trials = Trials(result(1.0, FOREIGN), Failed("iperf3 is missing"), result(1.0, QUIET))
    assert Patience().spent_on(trials) == Failed("iperf3 is missing")


def test_a_window_tells_what_others_took_a_second() -> None:
    looks = iter([(10.0, 100.0, 1.0, 50.0), (12.0, 103.0, 1.5, 51.5)])

    class Told(Window):
        def _look(self) -> tuple[float, float, float, float]:
            return next(looks)

    # Of 3 s that the CPUs were busy 0.5 were stolen and 1.5 ours, in a window of 2 s.
    assert Told().others() == Others(foreign_cpus=0.5, stolen_cpus=0.25)
