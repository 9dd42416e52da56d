"""Where NIXL is: a Python of its own, for it brings libraries that the testbed has no use for."""

import os
import subprocess
import sys
from pathlib import Path

import click

PYTHON_ENV = "DUALPATH_NIXL_PYTHON"
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
HOW = f"not measured: NIXL is missing; add --with-nixl, or name a Python with it in {PYTHON_ENV}"


def _own() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dualpath" / "nixl"


def python() -> str:
    """A Python that has NIXL, by its absolute path, or "" if there is none."""
    for candidate in (os.environ.get(PYTHON_ENV, ""), str(_own() / "bin" / "python")):
        if candidate and Path(candidate).exists() and _has_nixl(candidate):
            return str(Path(candidate).absolute())
    return ""


def _has_nixl(candidate: str) -> bool:
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('nixl_cu12') is None)"
    return subprocess.run([candidate, "-c", probe], check=False).returncode == 0


def install() -> None:
    """Make that Python in the cache folder; ClickException if the packages cannot be had."""
    folder = _own()
    if python():
        return
    click.echo(f"bench: preparing NIXL in {folder} (once; a few minutes)", err=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    version = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__.partition('+')[0])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # Torch without CUDA comes first, or NIXL brings gigabytes of GPU libraries.
        if subprocess.run(
            [*pip, f"torch=={version}+cpu"], check=False, stderr=subprocess.DEVNULL
        ).returncode:
            subprocess.run([*pip, "--index-url", CPU_TORCH_INDEX, "torch"], check=True)
        subprocess.run([*pip, "numpy", "nixl-cu12"], check=True)
    except subprocess.CalledProcessError as error:
        raise click.ClickException(
            f"NIXL could not be installed ({error}); run without --with-nixl, or name a Python "
            f"that has it in {PYTHON_ENV}"
        ) from error
