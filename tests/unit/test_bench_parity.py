"""The bench's table of both worlds has every policy that moves bytes."""

from scheduler.lookup import lookup, names
from testbed.bench import parity


def test_every_built_in_policy_that_moves_bytes_is_compared() -> None:
    assert set(parity.EVERY) == {name for name in names() if lookup(name).traits.io}
