"""The running loop, for objects that are made before it runs."""

import asyncio


class RunningLoop:
    """An attribute that asks for the loop once: on some systems each question is a system call.

    It stays among the attributes. `functools.cached_property` writes to the object's dictionary,
    and where that has been made, Python 3.11 finds each of its attributes and methods more slowly.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        setattr(instance, self._name, loop)
        return loop
