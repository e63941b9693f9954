"""How much may be kept between passes over the data."""

import sklearn

__all__ = ["room"]

# Of scikit-learn's working_memory, so that stacked rows, folds and the rest fit into it together.
SHARE = 4


def room():
    """How many float64 numbers may be kept: a quarter of scikit-learn's ``working_memory``."""
    return sklearn.get_config()["working_memory"] * 2**20 / 8 / SHARE
