"""What Mininet wants of distutils, for Pythons from 3.12 on, which have none."""

import importlib.util
import sys
from types import ModuleType


class StrictVersion:
    """Dotted numbers, compared number by number; Mininet compares Open vSwitch's with "1.10"."""

    def __init__(self, text: str) -> None:
        self.numbers = tuple(int(part) for part in text.split("."))

    def __lt__(self, other: "StrictVersion") -> bool:
        return self.numbers < other.numbers


def install() -> None:
    """Put the stand-in into sys.modules, unless Python or setuptools has the real distutils."""
    if importlib.util.find_spec("distutils") is not None:
        return
    package, version = ModuleType("distutils"), ModuleType("distutils.version")
    vars(version)["StrictVersion"] = StrictVersion
    vars(package)["version"] = version
    sys.modules["distutils"] = package
    sys.modules["distutils.version"] = version
