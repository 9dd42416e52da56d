"""What is loaded where: torch once, in the forkserver, and never by the command itself."""

import subprocess
import sys


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.split())


def test_neither_the_command_nor_the_lab_loads_torch() -> None:
    loaded = modules_after(
        "import testbed.cli.run, testbed.cli.compare, testbed.cli.clean, testbed.cli.validate\n"
        "import testbed.worlds.lab, testbed.worlds.forkserver"
    )
    assert "torch" not in loaded


def test_the_forkserver_loads_what_every_host_needs() -> None:
    loaded = modules_after("import testbed.worlds.hosts")
    assert {"torch", "lmdb", "engines.prefill", "engines.decode"} <= loaded
