"""Which labs there are, and what makes one."""

from collections.abc import Callable, Mapping

import msgspec
from rich.console import RenderableType

from testbed.errors import InputError
from testbed.labs.idle_snic import checks, drawn, plot
from testbed.labs.player import Job, Outcome
from testbed.labs.region import Region
from testbed.labs.result import Check, Result
from testbed.yamlfile import nearest


class Lab(msgspec.Struct, frozen=True):
    """A lab; its page, starter and experiment are files of `package`.

    `version` rises when numbers or checks change, `experiment` gives a student's experiment file,
    and `variations` what the code is played on beside it.
    """

    name: str
    version: int
    question: str
    difficulty: str
    minutes: int
    package: str
    experiment: Callable[[str], str]
    variations: Mapping[str, tuple[str, ...]]
    references: Mapping[str, Job]
    check: Callable[[Region, Mapping[str, Outcome], Mapping[str, Outcome]], tuple[Check, ...]]
    forbidden: frozenset[str]
    plot: Callable[[Result], RenderableType]


LABS = {
    lab.name: lab
    for lab in (
        Lab(
            name="idle-snic",
            version=1,
            question="Why is half of the storage bandwidth idle?",
            difficulty="easy",
            minutes=30,
            package="testbed.labs.idle_snic",
            experiment=drawn.experiment_text,
            variations=drawn.VARIATIONS,
            references=checks.reference_jobs(drawn.VARIATIONS),
            check=checks.check,
            forbidden=checks.FORBIDDEN,
            plot=plot.plot,
        ),
    )
}


def find_lab(name: str) -> Lab:
    """A lab by its name; raises InputError with the nearest one."""
    if name not in LABS:
        raise InputError(
            f"there is no lab {name!r}; {nearest(name, list(LABS))}. `testbed lab list` shows all"
        )
    return LABS[name]
