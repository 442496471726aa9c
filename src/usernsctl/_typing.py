"""Words for annotations.

:mod:`typing` takes as long to import as twenty modules of ours, and annotations are text here
(``from __future__ import annotations``). So it is imported only where somebody has done so already,
who may want to know what they mean; else these stand for it. To type checkers they are the same.
"""

from __future__ import annotations

import sys
from importlib import import_module

# What type checkers take to be true.
TYPE_CHECKING = False

if TYPE_CHECKING or "typing" in sys.modules:
    from typing import Any as Any
    from typing import BinaryIO as BinaryIO
    from typing import Literal as Literal
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypeVar as TypeVar
    from typing import runtime_checkable as runtime_checkable
else:
    Any = BinaryIO = NoReturn = Protocol = Self = object

    class Literal:
        """A choice of texts."""

        def __class_getitem__(cls, choice):
            return str

    def TypeVar(name, *, bound=None):
        """Stand for a type."""
        return object

    def runtime_checkable(cls):
        """Leave a class as it is."""
        return cls


class LateModule:
    """A module that only annotations name: imported when somebody asks what they mean.

    That is :func:`typing.get_type_hints`, for pydantic and others that look at annotations.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)
