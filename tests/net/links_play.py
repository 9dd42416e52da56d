"""Plays a scene of links_scenes.py in private namespaces, from a test."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from testbed.fabric.private import start_private

HERE = Path(__file__).parent


def play(scene: str) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}
    command = [sys.executable, str(HERE / "links_scenes.py"), scene]
    with start_private(command, stdout=subprocess.PIPE, env=env) as process:
        out, _ = process.popen.communicate(timeout=90)
    assert process.popen.returncode == 0
    report: dict[str, Any] = json.loads(out)
    return report
