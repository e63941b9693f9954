"""What the columns of X must hold, where no featurizer makes numbers of them."""

import numpy as np
from sklearn.utils import _safe_indexing, check_array

__all__ = ["as_numbers", "read_offset", "refuse_dates"]


def as_numbers(X, check, labels):
    """X as floats; errors name the first column that holds something else.

    Parameters
    ----------
    X : array-like or frame of shape (n_rows, n_columns)
    check : callable
        From X, or one of its columns, to an array of floats.
    labels : bool
        Whether a column might hold the labels of tasks: then errors say what to do with it.

    Returns
    -------
    ndarray or sparse matrix
    """
    try:
        return check(X)
    except (TypeError, ValueError) as error:
        columns = getattr(X, "columns", ())
        for at, name in enumerate(columns):
            column = _safe_indexing(X, [at], axis=1)
            try:
                check(column)
            except (TypeError, ValueError):
                kind = TypeError if isinstance(error, TypeError) else ValueError
                hint = f" If it says which task a row is of, set task_column={name!r}."
                raise kind(
                    f"column {name!r} of X does not hold numbers (its dtype is "
                    f"{next(iter(column.dtypes))}); make numbers of it in a featurizer, such as "
                    f"ColumnTransformer([('codes', OneHotEncoder(), [{name!r}])], "
                    f"remainder='passthrough').{hint if labels else ''} {error}"
                ) from error
        raise


def refuse_dates(X, name="X"):
    """Raise for dates and durations, which would count as nanoseconds or so."""
    dtypes = getattr(X, "dtypes", [getattr(X, "dtype", None)])
    for i, dtype in enumerate(dtypes):
        temporal = getattr(dtype, "is_temporal", bool)  # of polars
        if getattr(dtype, "kind", "") in ("m", "M") or temporal():
            name = f"column {X.columns[i]!r}" if hasattr(X, "columns") else name
            raise ValueError(
                f"{name} holds dates or durations ({dtype}); turn them into numbers of a unit "
                "that you choose, for example in a featurizer."
            )


def read_offset(column, name):
    """The column of offsets as float64, or None where there is none.

    Parameters
    ----------
    column : array-like of shape (n_rows,) or None
    name : str or int
        That by which the user knows it.
    """
    if column is None:
        return None
    parameter = f"offset_column={name!r}"
    column = np.asarray(column)
    refuse_dates(column, parameter)
    try:
        column = column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{parameter} does not hold numbers: {error}.") from error
    return check_array(column, ensure_2d=False, dtype=np.float64, input_name=parameter)
