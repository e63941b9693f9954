"""Names for the types in public signatures; they say what is taken, not what is checked."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Method = TypeVar("Method")

    def available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]:
        """As that of scikit-learn, which has no types: a method stays what it is."""

else:
    from sklearn.utils.metaestimators import available_if

    Axes = Any  # matplotlib is optional

__all__ = [
    "Array",
    "Axes",
    "Column",
    "Coverage",
    "Effort",
    "Floats",
    "Numbers",
    "Path",
    "PathLike",
    "PerRow",
    "Pullback",
    "Random",
    "Shots",
    "Size",
    "Sparse",
    "Split",
    "Support",
    "Table",
    "Tasks",
    "Unknown",
    "available_if",
]


class Sparse(Protocol):
    """A sparse matrix or array."""

    def tocsr(self) -> Any:
        """The same by rows."""


class PathLike(Protocol):
    """A path, as those of pathlib."""

    def __fspath__(self) -> str:
        """The path as text."""


Array = NDArray[Any]
Floats = NDArray[np.float64]

# Rows with columns; frames are arrays to numpy. Tasks are such rows, or a list of tasks.
Table = ArrayLike | Sparse
Tasks = Table | Sequence[tuple[Table, ArrayLike] | tuple[Table, ArrayLike, ArrayLike]]

Column = str | int
Coverage = float | Sequence[float]
Effort = Literal["fast", "full", "branch"]
# Of losses, which are pointwise.
Numbers = float | Array
Path = str | PathLike
PerRow = ArrayLike | None
Pullback = Callable[[Floats], Floats]
Random = int | np.random.RandomState
Shots = Sequence[int] | NDArray[np.integer[Any]]
Size = int | tuple[int, int]
Split = Literal["random", "first"]
Support = Literal["auto", "all"] | float | Sequence[int]
Unknown = Literal["meta", "raise"]
