"""What the first call of `partial_fit` settles for all tasks: later ones refuse a change of it."""

import joblib

__all__ = ["check_settled", "digest_of", "settle"]

# What the first call settles: how tasks are read and split, and for steps also by what rule.
SETTLED = (
    "featurizer",
    "fit_intercept",
    "loss",
    "n_episodes",
    "offset_column",
    "pooled",
    "split",
    "support",
    "task_column",
)
RULE = ("adaptation", "inner_lr", "n_steps")


def settle(model, sums):
    """Remember, in the first call, what later ones would ignore a change of."""
    if not hasattr(model, "_settled"):
        names = SETTLED if sums else (*SETTLED, *RULE)
        model._settled = {name: _digest(model, name) for name in names if hasattr(model, name)}


def check_settled(model, loss):
    """Raise where something was set since that the first call settled; the loss is that of then."""
    settled = getattr(model, "_settled", {})
    changed = [name for name, digest in settled.items() if _digest(model, name) != digest]
    if not settled and repr(loss) != repr(model.loss_):
        changed.append("loss")
    if "fit_intercept" not in settled and bool(model.fit_intercept) != model._has_intercept:
        changed.append("fit_intercept")
    if changed:
        now = ", ".join(f"{name}={getattr(model, name)!r}" for name in changed)
        raise ValueError(
            f"{now} was set since the first call of partial_fit, or fit, which settled it for all "
            "tasks; set it back, or begin anew on a clone of the model."
        )


def _digest(model, name):
    """What a parameter is told from others by: what it pickles to, or else its text."""
    value = getattr(model, name)
    try:
        return joblib.hash(value)
    except Exception:  # of whatever an object does that is to be pickled
        return repr(value)


def digest_of(featurizer):
    """What a fitted featurizer is told from others by, in other places too; None for none."""
    try:
        return None if featurizer is None else joblib.hash(featurizer)
    except Exception as error:  # see above
        raise ValueError(
            f"Statistics of tasks say by which featurizer they were made, and {featurizer!r} "
            f"cannot be pickled, by which it is told from others ({error}). Define its functions "
            "at the top of a module."
        ) from None
