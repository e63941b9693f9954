"""``cached_property`` that does not keep other threads waiting.

That of Python 3.11 holds one lock for all instances of a class while it computes: workers that are
threads would take turns. Python 3.12 has dropped it.
"""

import sys
from typing import Any

__all__ = ["cached_property"]

if sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:
        """A method whose value is computed once, and then an attribute of the instance."""

        def __init__(self, func: Any) -> None:
            self.func, self.__doc__ = func, func.__doc__

        def __set_name__(self, owner: Any, name: str) -> None:
            self.name = name

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            # An attribute of the instance comes before this descriptor, which cannot be set.
            value = instance.__dict__[self.name] = self.func(instance)
            return value
