"""A student's folder of a lab."""

import re
from importlib import resources
from pathlib import Path

import msgspec

from testbed.errors import InputError
from testbed.jsontext import decode
from testbed.labs.catalogue import Lab, find_lab
from testbed.labs.player import EXPERIMENT, STARTER

MARK, PAGE, ANSWERS, REPORT = "lab.json", "README.md", "answers.md", "report.md"
STUDENT = re.compile(r"[\w.@+-]{1,64}")


class Start(msgspec.Struct, frozen=True):
    """What a folder is about, in its `lab.json`."""

    lab: str
    version: int
    student: str


class LabFolder(msgspec.Struct, frozen=True):
    """A folder that `start` made, and its lab."""

    path: Path
    lab: Lab
    student: str

    def source(self) -> bytes:
        """The student's code; raises InputError if it cannot be read."""
        return _read(self.path / STARTER)

    def text(self, name: str) -> str:
        """A text of the folder; raises InputError if it cannot be read."""
        return _read(self.path / name).decode("utf-8", "replace")


def packaged(lab: Lab, name: str) -> str:
    """A file of the lab itself."""
    return resources.files(lab.package).joinpath(name).read_text("utf-8")


def start(lab: Lab, path: Path, student: str) -> list[str]:
    """Make a folder; returns its files. InputError if it is there, and nothing is overwritten."""
    if student and not STUDENT.fullmatch(student):
        raise InputError(
            f"--student {student!r}: is no ID; use letters, digits and . @ + - _, at most 64"
        )
    files = {
        PAGE: packaged(lab, PAGE),
        STARTER: packaged(lab, STARTER),
        EXPERIMENT: lab.experiment(student),
        ANSWERS: packaged(lab, ANSWERS),
        MARK: msgspec.json.encode(Start(lab.name, lab.version, student)).decode() + "\n",
    }
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(f"{path} is already there; name another folder") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.strerror}; name another one") from error
    for name, text in files.items():
        (path / name).write_text(text, "utf-8", newline="\n")
    return list(files)


def open_folder(path: Path) -> LabFolder:
    """A folder that `start` made; raises InputError for any other one."""
    if not (path / MARK).is_file():
        raise InputError(
            f"{path} is no folder of a lab: it has no {MARK}. Go into one, or make one: "
            "testbed lab start idle-snic"
        )
    try:
        found = decode(_read(path / MARK), Start)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path / MARK}: {error}; take the {MARK} of a fresh folder: testbed lab start"
        ) from error
    lab = find_lab(found.lab)
    if found.version != lab.version:
        raise InputError(
            f"{path} is of version {found.version} of lab {lab.name}, and this is version "
            f"{lab.version}; start it again in another folder and copy your lines"
        )
    if found.student and not STUDENT.fullmatch(found.student):
        raise InputError(f"{path / MARK}: {found.student!r} is no student's ID; start again")
    return LabFolder(path, lab, found.student)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; is it a lab's folder?") from error
