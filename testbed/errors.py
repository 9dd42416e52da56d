"""The testbed's branch of the one tree of errors (its root: scheduler/errors.py)."""

from scheduler.errors import DualPathError


class TestbedError(DualPathError):
    """Base of what can go wrong around the engines; `exit_code` is the CLI's."""

    __test__ = False  # not a test class, whatever pytest thinks of the name
    exit_code = 1


class InputError(TestbedError):
    """An experiment, profile, trace or option is not valid; nothing was created."""

    exit_code = 2


class EnvironmentUnfit(TestbedError):
    """This machine cannot do what was asked; `testbed doctor` explains."""

    exit_code = 4


class RunFailed(TestbedError):
    """A run ended before its work did."""


class NotReproduced(TestbedError):
    """A run that is decided once more is decided otherwise: the code changed since."""
