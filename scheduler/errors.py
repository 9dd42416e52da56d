"""The root of the project's one tree of errors.

DualPathError
├── SchedulerError                 a decision was asked for that the cluster cannot give
│   └── PolicyFailed               a policy raised, or decided what cannot be
├── EngineError          (engines/errors.py)   transfer, storage, capacity, deadline
└── TestbedError         (testbed/errors.py)   input, environment, run

Each message says what happened, to which object, and what to do.
"""


class DualPathError(Exception):
    """Base of every error that this project raises on purpose."""


class SchedulerError(DualPathError):
    """An event or decision that contradicts the known cluster."""


class PolicyFailed(SchedulerError):
    """A policy raised, or decided what cannot be; the message has the request and its line."""
