"""Loading what `MAMLRegressor.save` and `MAMLClassifier.save` wrote."""

from sklearn_maml._estimators.classifier import MAMLClassifier
from sklearn_maml._estimators.regressor import MAMLRegressor
from sklearn_maml._estimators.stored import read_model
from sklearn_maml._typing import Path

__all__ = ["load_model"]


def load_model(path: Path) -> MAMLRegressor | MAMLClassifier:
    """A fitted model from a file that its method ``save`` wrote.

    Nothing in the file is run, imported or unpickled: it holds numbers, text, and names of the
    package's own parts. What is not as `save` writes it is refused.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    MAMLRegressor or MAMLClassifier
        It adapts, predicts and scores as the model that was saved, to the last bit. Nothing of
        the training data is needed.

    Raises
    ------
    ValueError
        If the file is not one that `save` wrote, was written in a format of a later release, is
        not whole, or holds NaN; the message says which.
    OSError
        If there is no such file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_maml import MAMLRegressor, load_model
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=31, random_state=0)
    >>> model = MAMLRegressor(random_state=0).fit(tasks)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(pathlib.Path(folder) / "model.npz")
    ...     loaded = load_model(pathlib.Path(folder) / "model.npz")
    >>> adapted, again = (m.adapt(X_new[:5], y_new[:5]) for m in (model, loaded))
    >>> bool((adapted.predict(X_new) == again.predict(X_new)).all())
    True
    """
    return read_model(path, (MAMLRegressor, MAMLClassifier))
