"""Processes that are started for somebody's code, which may start others."""

import os
import signal
import subprocess
from contextlib import suppress


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """At once, with all that it started: it began a session of its own, where there are any."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # all of its group may be gone already
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
