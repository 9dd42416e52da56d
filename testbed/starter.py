"""The first lines of a policy of one's own."""

import keyword
import re
import sys
from pathlib import Path

from testbed.errors import InputError
from testbed.imports import CODE
from testbed.policies import Chosen

TAKEN = {*CODE, *sys.stdlib_module_names}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

TEXT = '''\
"""{class_name}: a policy of my own. To compare it with the one that it is made of:

    testbed compare weka.yaml --world virtual --policies {base},{file}:{class_name}
"""

{imports}


class {class_name}({parent}):
    """As `{base}`, until a decision below is another one."""

    # A decision that is not written here is inherited. This one is asked for last, when the
    # request has a PE and a DE: which side's storage NIC reads which of its hit blocks?
    def reads(self, cluster, request, pe, de):
{reads}

    # The other decisions; each yields Placement(request.id, engine.name), one at a time, and sees
    # the books with all that it placed before (Placement: scheduler.policy, Side: scheduler.types):
    #
{others}
    #
    # What the books offer: what engines and nodes last reported, with all that was decided since.
    #
    #   request  id, agent, turn, prompt_tokens, hit_tokens (they are in storage),
    #            generate_tokens, context_tokens; context (extents of the hits), chain
    #   cluster  on(Side.PE): engines; waiting(Side.PE): requests without one, in order of arrival;
    #            engines, nodes, groups by name; node_of(engine name); hbm_tokens(request); now_s
    #   engine   name, requests, tokens (both unfinished), free_hbm_tokens, node, group, order
    #   node     name, read_queue_tokens (what its storage NIC had still to read at counted_s),
    #            read_tokens (all that it was ever given to read), last_read (which decision that
    #            was, by number)
    #   group    name, side, engines, nodes by name, tokens, load_tokens (with those that wait for
    #            the group)
    #   cluster.spec   alpha_tokens, beta_tokens (what is long, and what is too much), block_tokens,
    #            dram_cache_tokens (of a node), seed (for random.Random: the same run draws the
    #            same lots)
    #
    # And the last reports as they were, without what was decided since:
    #
    #   engine.last    cnic_backlog_tokens (on their way out of its HBM)
    #   node.last      free_dram_tokens, write_backlog_tokens (that storage does not keep yet),
    #                  cnic_backlog_tokens (on their way out of its DRAM)
    #
    # What it asks of the engines is `traits` (where there is a limit, the experiment has its
    # value: engine.prefill_quota_s, max_forward_tokens, read_ahead); {base} has
    #   {traits}


POLICY = {class_name}
'''
READS = {
    "dualpath": '''\
        """All on the side whose node's storage NIC has less to read, as in the paper."""
        side = path.shorter_queue(cluster, pe, de)
        return path.whole(cluster, request, side)''',
    "": '''\
        """Not decided anew; path.whole(cluster, request, Side.DE) would read all on that side."""
        return super().reads(cluster, request, pe, de)''',
}
OTHERS = {
    "arrived": "arrived(cluster, request)   a request came: queue it, or place it at once",
    "fetch": "fetch(cluster, group)       a group of PEs or DEs pulls work",
    "prefill": "prefill(cluster, group)     a group of PEs pulls work: who prefills?",
    "decode": "decode(cluster, group)      a group of DEs pulls work: who decodes?",
    "ended": "ended(request_id)           a request is over, done or failed (yields nothing)",
}


def write_starter(name: str, base: Chosen, folder: Path) -> tuple[Path, str]:
    """Write NAME.py into a folder; returns the file and its class. InputError if it is there."""
    stem = name.removesuffix(".py")
    words = [word for word in re.split(r"[_-]", stem) if word]
    class_name = "".join(word[0].upper() + word[1:] for word in words)
    if not NAME.fullmatch(stem) or keyword.iskeyword(class_name):
        raise InputError(
            f"{name!r} is no name for a policy; take letters, digits and _, as in my_policy"
        )
    if stem in TAKEN:
        raise InputError(
            f"{name!r} is a module of Python's or the testbed's, and a file of that name would "
            f"take its place; choose another, as in my_{stem}"
        )
    path = folder / f"{stem}.py"
    text = _text(class_name, base, path.name)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} is there already; choose another name or remove it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; check the folder") from error
    return path, class_name


def _text(class_name: str, base: Chosen, file: str) -> str:
    parent = type(base.make())
    try:
        parent()
    except TypeError as error:
        raise InputError(
            f"--from {base.name}: {parent.__name__} is made with arguments ({error}); begin with a "
            "policy that is not"
        ) from error
    written = base.name in READS
    alias = f"{parent.__name__} as Base" if parent.__name__ == class_name else parent.__name__
    imports = [f"from {parent.__module__} import {alias}"]
    if written:
        imports.insert(0, "from scheduler import path")
    others = [line for word, line in OTHERS.items() if hasattr(parent, word)]
    return TEXT.format(
        class_name=class_name,
        file=file,
        base=base.name,
        imports="\n".join(imports),
        parent=alias.rpartition(" ")[2],
        reads=READS[base.name if written else ""],
        others="\n".join(f"    #   {line}" for line in others),
        traits=base.make().traits,
    )
