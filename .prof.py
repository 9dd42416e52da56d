import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path

from testbed.session import play
from testbed.spec import load_experiment
from testbed.workload import build_workload

ex = sys.argv[1]
sets = sys.argv[3:]
e = load_experiment(Path(f"topologies/{ex}.yaml"), ["scale.time_scale=1", *sets])
w = build_workload(e.workload, 0)


def go():
    with tempfile.TemporaryDirectory() as d:
        return play(e, "x", w, ["dualpath"], Path(d), lambda *_: None, "virtual")


if sys.argv[2] == "p":
    p = cProfile.Profile()
    p.runcall(go)
    pstats.Stats(p).sort_stats("tottime").print_stats(40)
else:
    t = time.time()
    r = go()
    q = r.policies["dualpath"]
    print(
        round(time.time() - t, 2),
        "s",
        q.turns_per_wall_s,
        q.virtual_s_per_wall_s,
        q.throughput_turns_per_s,
        q.bound.turns_per_s,
        q.bound.binds,
    )
