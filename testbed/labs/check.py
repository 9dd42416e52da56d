"""Checks a student's folder: plays the code beside what it is compared with, and asserts."""

import hashlib

import msgspec

from testbed.labs.folder import LabFolder, packaged
from testbed.labs.play import play_all
from testbed.labs.player import MINE, STARTER, Job
from testbed.labs.region import region
from testbed.labs.result import SCHEMA, Result

LIMIT_S = 60.0  # for a run of a second


def check_folder(folder: LabFolder, limit_s: float = LIMIT_S) -> Result:
    """Every check of the folder's lab; what the student's code does wrong is never raised."""
    lab, source = folder.lab, folder.source()
    own = region(packaged(lab, STARTER), source.decode("utf-8", "replace"), lab.forbidden)
    jobs = [Job(name, settings, MINE) for name, settings in lab.variations.items()]
    experiment = lab.experiment(folder.student)
    mine, theirs = play_all(experiment, jobs, list(lab.references.values()), source, limit_s)
    runs = dict(zip(lab.variations, mine.outcomes, strict=True))
    references = dict(zip(lab.references, theirs.outcomes, strict=True))
    checks = lab.check(own, runs, references)
    return Result(
        schema=SCHEMA,
        lab=lab.name,
        lab_version=lab.version,
        student=folder.student,
        code_sha256=hashlib.sha256(source).hexdigest(),
        code_lines=own.lines,
        passed=all(check.passed for check in checks),
        points=sum(check.points for check in checks),
        most_points=sum(check.most_points for check in checks),
        checks=checks,
        mine=runs,
        reference=references,
        printed=mine.printed,
    )


def as_json(result: Result) -> str:
    """What `lab check --json` prints."""
    return msgspec.json.format(msgspec.json.encode(result)).decode() + "\n"
