"""A model is fitted as a whole, or not at all: what a fit leaves, and how it is removed."""

from contextlib import contextmanager

__all__ = ["all_or_nothing", "forget", "unchanged_by_failure"]

# What a fit sets beside its public attributes.
PRIVATE = (
    "_alpha",
    "_episodes",
    "_has_intercept",
    "_information",
    "_judging",
    "_known",
    "_n_rows",
    "_settled",
    "_start",
    "_untold",
)


def forget(model):
    """Remove what fits have set: all that ends with an underscore, and what is private to us."""
    for name in [name for name in vars(model) if name.endswith("_") or name in PRIVATE]:
        delattr(model, name)


@contextmanager
def all_or_nothing(model):
    """A context in which a model is fitted: as a whole, or not at all.

    What an earlier fit left is forgotten first, and what this one found if it does not end, be it
    by an error in the featurizer or by Ctrl-C: there is no model of mixed parts.
    """
    forget(model)
    try:
        yield
    except BaseException:
        forget(model)
        raise


@contextmanager
def unchanged_by_failure(model):
    """A context after which a model is as it was, where an error ends it."""
    before = vars(model).copy()
    try:
        yield
    except BaseException:
        vars(model).clear()
        vars(model).update(before)
        raise
