"""A machine whose loopback has 127.0.0.1 alone, as that of other systems than Linux.

As `launch WORDS`: the supervisor of private namespaces, whose PID 1 is `inside WORDS`, which takes
the rest of 127.0.0.0/8 away there and runs the words.
"""

import subprocess
import sys

from testbed.fabric.private import hold_lifeline, start_private


def inside(words: list[str]) -> int:
    hold_lifeline()
    from pyroute2 import IPRoute

    from testbed.fabric.namespaces import require_private

    require_private()
    with IPRoute() as network:
        network.link("set", index=1, state="up")
        network.flush_addr(index=1)
        network.addr("add", index=1, address="127.0.0.1", prefixlen=32)
    return subprocess.run(words, check=False).returncode


def launch(words: list[str]) -> int:
    with start_private([sys.executable, __file__, "inside", *words]) as process:
        return process.popen.wait()


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    sys.exit(launch(rest) if verb == "launch" else inside(rest))
