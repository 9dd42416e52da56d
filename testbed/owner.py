"""Under sudo, what a command writes belongs to the user who called it."""

import os
from contextlib import suppress
from pathlib import Path

_created: list[Path] = []


def caller() -> tuple[int, int] | None:
    """User and group of whoever called sudo; None without sudo, or if root did."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    try:
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None
    return (uid, gid) if uid else None


def home() -> Path:
    """The calling user's home folder, which is not root's under sudo."""
    called = caller()
    if called is not None:
        import pwd  # not on every system, and neither is sudo

        with suppress(KeyError):
            return Path(pwd.getpwuid(called[0]).pw_dir)
    return Path.home()


def cache_folder() -> Path:
    """Where KV that was computed once is kept between runs (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(home() / ".cache")
    return Path(base) / "dualpath-testbed"


def created(path: Path) -> None:
    """To be called before a folder is made or filled: it, and parents that it lacks, are ours."""
    top = path.absolute()
    while not top.parent.exists():
        top = top.parent
    _created.append(top)


def hand_over() -> None:
    """Give to the caller of sudo what root owns in the folders of `created`, links never followed.

    Does nothing without sudo. Root's files that were there before, elsewhere, stay root's.
    """
    called = caller()
    while _created:
        top = _created.pop()
        if called is not None:
            _give(top, *called)


def _give(top: Path, uid: int, gid: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        for _, folders, files, fd in os.fwalk(top, follow_symlinks=False):
            for name in (*folders, *files, "."):
                with suppress(FileNotFoundError):
                    if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid == 0:
                        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
