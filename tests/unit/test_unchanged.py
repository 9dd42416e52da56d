"""What docs/unchanged.md promises: one scheduler for all worlds, with no time of its own."""

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "unchanged.md"


def output(program: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


LOADED = """
import json, sys
from hashlib import sha256
from pathlib import Path
import {world}
print(json.dumps({{
    name: [str(Path(module.__file__).resolve()), sha256(Path(module.__file__).read_bytes()).hexdigest()]
    for name, module in sorted(sys.modules.items()) if name.partition(".")[0] == "scheduler"
}}))
"""  # noqa: E501


def test_both_worlds_load_the_same_scheduler_byte_for_byte() -> None:
    pytest.importorskip("torch")  # the emulated world's hosts load it
    worlds = [
        json.loads(output(LOADED.format(world=f"testbed.worlds.{name}")))
        for name in ("virtual", "hosts")
    ]
    assert worlds[0] == worlds[1]
    for name in ("scheduler.scheduler", "scheduler.cluster", "scheduler.lookup"):
        path, digest = worlds[0][name]
        assert Path(path).parent == ROOT / "scheduler"
        assert digest == sha256(Path(path).read_bytes()).hexdigest()


# No clock, no chance, no socket: whatever would give it one of its own raises.
BY_HAND = """
import random, socket, time
from scheduler.lookup import lookup
from scheduler.scheduler import Scheduler
from scheduler.types import *

def refused(*words, **named):
    raise AssertionError("the scheduler asked the machine")

for module, wanted in (
    (time, "time monotonic perf_counter process_time sleep time_ns monotonic_ns"),
    (random, "random randrange randint choice shuffle"), (socket, "socket"),
):
    for name in wanted.split():
        setattr(module, name, refused)

SPEC = ClusterSpec(
    (EngineSpec("p0/0", Side.PE, "p0", "pe", 96000), EngineSpec("d0/0", Side.DE, "d0", "de", 96000)),
    block_tokens=64, alpha_tokens=3000, beta_tokens=90000, seed=7,
)

def decided(policy, later_s):
    '''One request each time that the group of either side reports a long read queue.'''
    scheduler, found, seq = Scheduler(SPEC, lookup(policy)), [], 0
    for number, (pe_queue, de_queue) in enumerate([(2900, 0), (0, 2900), (2900, 0)], 1):
        now_s = later_s * number
        events = [
            Arrived(now_s, Request(number, number, 0, 640, 576, 10)),
            Fetch(now_s, "pe", (EngineReport("p0/0", 0, 0, 96000, seq),), (NodeReport("p0", pe_queue, seq),)),
            Fetch(now_s, "de", (EngineReport("d0/0", 0, 0, 96000, seq),), (NodeReport("d0", de_queue, seq),)),
            Ended(now_s, number),
        ]
        for event in events:
            for decision in scheduler.handle(event):
                seq = decision.seq
                found.append((decision.request_id, decision.pe, decision.de, decision.reads[0].side.value))
    return found
"""  # noqa: E501


def test_the_paper_s_scheduler_decides_by_times_and_reports_given_by_hand() -> None:
    seen = output(f"{BY_HAND}\nfor s in (2.0**-10, 1.0, 2.0**20): print(decided('dualpath', s))")
    expected = [
        (number, "p0/0", "d0/0", side) for number, side in ((1, "de"), (2, "pe"), (3, "de"))
    ]
    assert seen.splitlines() == [str(expected)] * 3


def test_no_policy_asks_the_machine_for_time_or_chance() -> None:
    program = (
        f"{BY_HAND}\nfrom scheduler.lookup import names\n"
        "for name in names():\n"
        "    print(len(decided(name, 1.0)), decided(name, 1.0) == decided(name, 1.0))"
    )
    assert set(output(program).splitlines()) == {"3 True"}


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())
    assert len(named) >= 6
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), (path, test)
