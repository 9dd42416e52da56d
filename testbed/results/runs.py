"""Finished runs on disk: found by folder, by number, or as the newest of a name."""

import re
from contextlib import suppress
from pathlib import Path

import msgspec

from testbed.errors import InputError
from testbed.jsontext import decode
from testbed.policies import folder_names
from testbed.results.scheduler_log import NAME
from testbed.session import MARK, RESULT
from testbed.yamlfile import nearest

NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d+)")


def find_run(word: str, root: Path) -> Path:
    """A folder, a folder's name below `root`, or the newest run of that name.

    Raises InputError with the nearest name.
    """
    for folder in (Path(word), root / word):
        with suppress(OSError):  # a name that no file can have
            if (folder / MARK).is_file():
                return folder
    folders = [path.parent for path in root.glob(f"*/{MARK}")]
    names: dict[str, list[tuple[int, int, Path]]] = {}
    for folder in folders:
        if numbered := NUMBERED.fullmatch(folder.name):
            made_ns = (folder / MARK).stat().st_mtime_ns
            age = (made_ns, int(numbered["number"]), folder)  # numbers that `clean` freed return
            names.setdefault(numbered["name"], []).append(age)
    if word in names:
        return max(names[word])[-1]
    known = [*names, *(folder.name for folder in folders)]
    hint = nearest(word, known, "run") if known else "play one with testbed run or compare"
    raise InputError(f"no run {word!r} in {root}; {hint}")


class _Result(msgspec.Struct):
    """Of a run's result, whose policies it has, in the order in which they were asked for."""

    policies: dict[str, msgspec.Raw] = {}


def policy_folders(run: Path) -> dict[str, Path]:
    """The folder of each policy that has a log, in the order in which they were asked for.

    Raises InputError if there is none.
    """
    folders = {log.parent.name: log.parent for log in sorted(run.glob(f"*/{NAME}"))}
    if not folders:
        raise InputError(
            f"{run} has no log of a scheduler's decisions ({NAME}); play its experiment again"
        )
    try:
        result = decode((run / RESULT).read_bytes(), _Result)
    except (OSError, msgspec.MsgspecError):  # it was stopped: some of its policies are there
        return folders
    names = list(result.policies)
    asked = {folder: name for name, folder in zip(names, folder_names(names), strict=True)}
    return {
        asked.get(folder, folder): folders[folder]
        for folder in [*asked, *folders]
        if folder in folders
    }


def policy_folder(run: Path, policy: str | None) -> Path:
    """That of a policy, by default of the last one; raises InputError with the nearest name."""
    folders = policy_folders(run)
    if policy is None:
        return list(folders.values())[-1]
    if policy not in folders:
        known = nearest(policy, list(folders), "policy")
        raise InputError(f"{run} has no run of policy {policy!r}; {known}")
    return folders[policy]
