"""Which features tasks adapt where `pooled` is given: held-out tasks choose.

Four sets are tried: the columns as they are, beside them the prediction of a regressor for all
tasks, splines of the columns, and splines beside the prediction; and then the one that is chosen
with a prediction of what adapted tasks leave over. More features fit the training tasks better in
any case; so each set is judged by tasks that took no part in its fit, adapted to few of their rows.
Of the sets that are worse than the best one by no more than two standard errors of the difference,
paired by task, the first is taken: a rule as that of Breiman, Friedman, Olshen & Stone,
"Classification and Regression Trees", 1984, section 3.4.3. With one standard error curves were
found somewhat more often on public data, but straight lines lost up to 14 percent where there are
few tasks. A set that a simpler one is ahead of is not taken: its losses may be so uncertain that
nothing tells it from the best.
"""

from dataclasses import dataclass, replace
from html import escape

import numpy as np
import scipy.sparse as sp
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import FunctionTransformer, SplineTransformer

from sklearn_maml._progress import report
from sklearn_maml._report import html_rows, text_rows
from sklearn_maml._tasks.features import FittedFeaturizer, fit_featurizer
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml.pooled_prediction import PooledPrediction

__all__ = [
    "FeatureChoice",
    "beside",
    "check_pooled",
    "choose_features",
    "feature_sets",
    "for_choice",
]

# Tasks are dealt to so many folds, and so many of them are enough to tell sets apart; so are so
# many random splits of each.
FOLDS, TASKS_FOR_CHOICE, EPISODES_FOR_CHOICE = 3, 1000, 3

# Fewer tasks tell nothing of others.
FEWEST_TASKS = 6

# By how much a simpler set may be worse than the best one.
STANDARD_ERRORS = 2.0

# Columns with fewer values are no curves.
VALUES_OF_A_CURVE = 5

# Quantiles of a column as knots: cubic splines with 6 columns, straight beyond the ends.
SPLINES = SplineTransformer(4, knots="quantile", extrapolation="linear")


@dataclass(frozen=True, eq=False)
class FeatureChoice:
    """Which features tasks adapt, and how well held-out tasks were predicted with each set.

    Attributes
    ----------
    chosen : str
        "columns", "columns and prediction", "splines" or "splines and prediction"; or one of them
        with the residual, such as "columns and residual", "columns, prediction and residual".
    names : tuple of str
        The sets that were tried, the simplest first.
    task_losses : ndarray of shape (n_sets, n_tasks)
        The mean loss of the query rows of each held-out task; without a column where none was
        held out.
    """

    chosen: str
    names: tuple
    task_losses: np.ndarray

    @property
    def mean(self):
        """The mean over tasks, shape (n_sets,)."""
        return self.task_losses.mean(axis=1)

    @property
    def standard_error(self):
        """That of the difference from the best set, paired by task, shape (n_sets,)."""
        apart = self.task_losses - self.task_losses[np.argmin(self.mean)]
        return apart.std(axis=1, ddof=1) / np.sqrt(apart.shape[1])

    def _table(self):
        rows = [("features", "held-out loss", "")]
        for name, mean in zip(self.names, self.mean, strict=True):
            rows.append((name, f"{mean:.4g}", "<- chosen" if name == self.chosen else ""))
        return rows

    def __repr__(self):
        if not self.task_losses.size:
            return f"<FeatureChoice: {self.chosen}>"
        return "\n".join([f"FeatureChoice: {self.chosen}", *text_rows(self._table())])

    def _repr_html_(self):
        if not self.task_losses.size:
            return f"<p>{escape(repr(self))}</p>"
        return f"<table>{html_rows(self._table())}</table>"


def check_pooled(pooled):
    """Raise for what is no regressor or classifier."""
    able = hasattr(pooled, "fit") and hasattr(pooled, "predict")
    if pooled is not None and (isinstance(pooled, type) or not able):
        raise TypeError(
            "pooled must be None, or a regressor or classifier, an object with fit and predict; "
            f"got {pooled!r}."
        )


def feature_sets(model, rows, told):
    """The sets of features to choose from, the simplest first: a dict of `FittedFeaturizer`.

    The regressor is fitted once for all of them, and not at all where tasks are too few to choose.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
        With `pooled`, and perhaps a `featurizer` in whose columns no splines are put.
    rows : TaskRows
    told : ndarray of shape (n_rows,)
        The targets as the user knows them.
    """
    X, tasks = rows.X, rows.tasks
    if model.featurizer is None:
        columns = FittedFeaturizer(None, X)
    else:
        columns = _whole(fit_featurizer(model.featurizer, X, tasks, told), X)
    if too_few_to_choose(rows.tasks):
        return {"columns": columns}
    pooled = PooledPrediction(model.pooled, passthrough=False, n_jobs=model.n_jobs)
    prediction = fit_featurizer(pooled, X, tasks, told)
    sets = {"columns": columns, "columns and prediction": beside(columns, prediction, X)}
    curved = _curved(X) if model.featurizer is None else ()
    if len(curved):
        bent = ColumnTransformer(
            [("splines", SPLINES, curved)],
            remainder="passthrough",
            verbose_feature_names_out=False,
        )
        splines = _whole(fit_featurizer(bent, X, tasks, told), X)
        sets |= {"splines": splines, "splines and prediction": beside(splines, prediction, X)}
    return sets


def _whole(featurizer, X):
    """The featurizer with its features of all rows."""
    phi = featurizer.transformer.transform(X) if featurizer.phi is None else featurizer.phi
    return featurizer._replace(phi=phi if sp.issparse(phi) else np.asarray(phi))


def beside(columns, prediction, X):
    """Columns and predictions, two fitted featurizers of X, as one."""
    transformer = columns.transformer
    if transformer is None:
        as_it_is = FunctionTransformer(feature_names_out="one-to-one", accept_sparse=True)
        transformer = as_it_is.fit(X)
    union = FeatureUnion(
        [("columns", transformer), ("prediction", prediction.transformer)],
        verbose_feature_names_out=False,
    )
    both = columns.phi, prediction.phi
    phi = sp.hstack(both, format="csr") if sp.issparse(columns.phi) else np.hstack(both)
    return FittedFeaturizer(union, phi)


def _curved(X):
    """The positions of the columns of an array with enough values for a curve."""
    if sp.issparse(X):
        return ()
    return [j for j, x in enumerate(X.T) if len(np.unique(x)) >= VALUES_OF_A_CURVE]


def too_few_to_choose(tasks):
    """Whether tasks tell too little of others for a choice: then the columns stay as they are."""
    return not tasks.show_differences or np.count_nonzero(tasks.weight) < FEWEST_TASKS


def choose_features(sets, tasks, episodes, judging, intercept, fit, known=None):
    """The set of features with which held-out tasks are predicted best, or nearly so.

    Parameters
    ----------
    sets : dict of str to FittedFeaturizer
        The simplest first; one alone is taken unseen.
    tasks : Tasks
    episodes, judging : Episodes
        By which a model is fitted, and judged.
    intercept : bool
    fit : callable
        From a featurizer and `Blocks` to a `MetaObjective` whose rule is learned, and its theta.
    known : FeatureChoice, default=None
        Of the first of these sets.

    Returns
    -------
    FeatureChoice
    """
    names = tuple(sets)
    if len(names) == 1:
        return FeatureChoice(names[0], names, np.empty((1, 0)))
    folds = _folds(tasks, episodes.seed)
    episodes = for_choice(episodes)
    losses = [] if known is None else list(known.task_losses)
    for name in names[len(losses) :]:
        featurizer = sets[name]
        features = featurizer.training_features(None, intercept)
        found = []
        for train, test in folds:
            objective, theta = fit(featurizer, Blocks(tasks.only(train), features, episodes))
            blocks = Blocks(tasks.only(test), features, judging)
            found.append(_task_losses(objective.vary(blocks=blocks), theta))
        losses.append(np.concatenate(found))
        report(f"{name}: held-out loss {losses[-1].mean():.6g}")
    choice = FeatureChoice(names[0], names, np.array(losses))
    return replace(choice, chosen=names[simplest_near(choice)])


def simplest_near(choice):
    """The position of the first set that is near the best, and behind none that comes before it."""
    near = choice.mean - choice.mean.min() <= STANDARD_ERRORS * choice.standard_error
    return int(np.argmax(near & (choice.mean <= np.minimum.accumulate(choice.mean))))


def for_choice(episodes):
    """The episodes by which a model is fitted that is only to be compared."""
    return replace(episodes, n_episodes=min(episodes.n_episodes, EPISODES_FOR_CHOICE))


def _folds(tasks, seed):
    """Pairs of masks of tasks, train and test, of a sample of those that weigh something."""
    weighty = np.flatnonzero(tasks.weight > 0)
    drawn = np.random.default_rng(seed).permutation(weighty)[:TASKS_FOR_CHOICE]
    fold = np.full(len(tasks.weight), -1)
    fold[drawn] = np.arange(len(drawn)) % FOLDS
    return [((fold >= 0) & (fold != k), fold == k) for k in range(FOLDS)]


def _task_losses(objective, theta):
    """The mean loss of each task's query rows, those of tasks that have any."""
    y, z, weight, task = objective.query_predictions(theta)
    loss = objective.loss.value(y, z).reshape(-1, len(task)).sum(axis=0)
    total = np.bincount(task, weight)
    return np.bincount(task, weight * loss)[total > 0] / total[total > 0]
