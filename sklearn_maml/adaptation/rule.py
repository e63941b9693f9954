"""What an adaptation rule is: from meta-parameters and support rows to a task's parameters.

A rule returns theta_i and its *pullback* ``V -> V J_i`` with ``J_i = d theta_i / d theta``. The
gradient, the exact solver and the certificate are made of nothing else, so a new rule gets all
three.
"""

from abc import abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.stats import norm

from sklearn_maml._component import Component
from sklearn_maml._objective.linearization import Linearization
from sklearn_maml._objective.risk import Risk
from sklearn_maml._typing import Floats, Pullback
from sklearn_maml.adaptation.inner_loop import InnerLoop

__all__ = ["AdaptationRule", "SlopeForm"]


class SlopeForm(NamedTuple):
    """A rule that moves theta by slopes of support rows: ``theta_i = theta - c_i E E' F' (a s)``.

    s holds ``l'`` of the rows, summed over steps. Nothing but these slopes may depend on theta:
    then the certificate's tight bounds apply (docs: theory, Lemma 1).

    Attributes
    ----------
    length : ndarray of shape (n,)
        c_i of n tasks.
    factor : ndarray of shape (d, q)
        E.
    n_steps : int
        Each step takes its slopes where the one before it ended.
    implicit : bool
        Whether slopes are those at theta_i itself, as in a proximal step.

    Examples
    --------
    One step of length 0.1 in each of five tasks, along all of three parameters alike:

    >>> import numpy as np
    >>> from sklearn_maml.adaptation import SlopeForm
    >>> SlopeForm(np.full(5, 0.1), np.eye(3)).n_steps
    1
    """

    length: Floats
    factor: Floats
    n_steps: int = 1
    implicit: bool = False


class AdaptationRule(Component):
    """Base class of the adaptation rules ``theta_i = A_i(theta)``.

    Attributes
    ----------
    affine : bool
        Whether theta_i is affine in theta where the loss has a constant Hessian. The
        meta-objective is then a quadratic, which is minimised and certified exactly.
    first_order : bool
        Whether the pullback leaves out derivatives. Only solvers that follow a gradient without
        comparing it to the meta-loss take such a rule, and certificates use `exact`.
    lengths : (float or ndarray, bool) or None
        For a rule of steps, their length and whether it is capped; the estimator reports them.
    learnable : bool
        Whether parameters were left for `learn` to set.
    of_targets : bool
        Whether `deviation` depends on the targets of support rows too.
    of_moments : bool
        Whether theta_i depends on support rows only by ``[F y]' W [F y]``, where the loss has a
        constant Hessian: then rows can be summed up, and streamed.

    Examples
    --------
    One gradient step, of the same length for all parameters:

    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.adaptation import AdaptationRule
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> class PlainStep(AdaptationRule):
    ...     affine = True  # where the loss is squared: so the fit is exact
    ...     def __init__(self, length=0.1):
    ...         self.length = length
    ...     def adapt(self, theta, risk):
    ...         def pullback(V):
    ...             return V - self.length * risk.hessian_dot(theta, V)
    ...         return theta - self.length * risk.gradient(theta), pullback
    >>> tasks = make_linear_tasks(random_state=0)
    >>> model = MAMLRegressor(adaptation=PlainStep(), support="all").fit(tasks)
    >>> abs(model.meta_loss_ - MAMLRegressor(inner_lr=0.1).fit(tasks).meta_loss_) < 1e-12
    True
    """

    affine = False
    first_order = False
    learnable = False
    lengths: tuple[Any, bool] | None = None
    of_moments = False
    of_targets = False

    def __init_subclass__(cls, **options):
        """A subclass that overrides `adapt` alone is adapted by it: no shorter way is its own."""
        super().__init_subclass__(**options)
        if "adapt" in vars(cls) and "bind" not in vars(cls):
            cls.bind = AdaptationRule.bind
        if "adapt" in vars(cls) and "of_moments" not in vars(cls):
            cls.of_moments = False

    def exact(self) -> Self:
        """The rule that adapts in the same way, with its true derivative."""
        return self

    @abstractmethod
    def adapt(self, theta: Floats, risk: Risk) -> tuple[Floats, Pullback]:
        """Adapt theta to the rows of a support risk.

        Parameters
        ----------
        theta : ndarray of shape (..., d)
            Meta-parameters; leading axes broadcast against those of `risk`.
        risk : Risk
            Support rows of a stack of tasks: features (..., m, d), targets and weights (..., m).

        Returns
        -------
        theta_i : ndarray of shape (..., d)
            A new array.
        pullback : callable
            Maps rows V (..., k, d) to ``V J_i``, of the same shape.
        """

    def bind(self, support: Risk, query: Risk | None = None) -> InnerLoop:
        """The rule bound to the rows of a stack of tasks.

        By default it adapts by `adapt` and keeps nothing. A rule overrides it where there is
        something to compute once, or a shorter way from theta to the query predictions.

        Parameters
        ----------
        support : Risk
        query : Risk, default=None

        Returns
        -------
        InnerLoop
        """
        return InnerLoop(self, support, query)

    def learn(self, problem: Any) -> tuple["AdaptationRule", Any]:
        """Learn the parameters that were left to be learned; by default there are none.

        Parameters
        ----------
        problem : LearningProblem
            The training tasks, split as in `fit`: what may be asked of them to learn a rule.

        Returns
        -------
        rule : AdaptationRule
            With all its parameters set; this rule itself is unchanged.
        learned : object
            What was learned and how, for people to read; None where nothing was.
        """
        return self, None

    def slope(self, theta: Floats, linearization: Linearization) -> Floats:
        """Derivative of a block's part of the meta-loss in what is learned, theta held fixed.

        Parameters
        ----------
        theta : ndarray of shape (d,) or (n_targets, d)
        linearization : Linearization
            Of a block of tasks, at theta.

        Returns
        -------
        ndarray
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing that a slope would teach.")

    def calibrate(self, problem: Any, theta: Floats) -> Self:
        """The rule with what it has to know of the noise once theta is found; by default itself."""
        return self

    def information(self, risk: Risk) -> Floats | None:
        """What support rows tell of their tasks: all that `uncertainty` has to know of them.

        Parameters
        ----------
        risk : Risk
            Support rows of a stack of tasks. Of a square, the targets are what is left of them at
            theta_i; for other losses the weights alone count: those of the square that the loss is
            about theta_i, one set a target.

        Returns
        -------
        ndarray of shape (..., k) or None
            Numbers that mean something to the rule alone; all 0 if there are no rows. None, by
            default, for a rule that does not know how tasks vary.
        """
        return None

    def posterior(self, n_parameters: int, information: Floats | None = None) -> Floats | None:
        """How sure the parameters of tasks are, in units of the noise's variance.

        Parameters
        ----------
        n_parameters : int
            d.
        information : ndarray of shape (n, k), default=None
            Of n tasks; None for one task of which nothing is known.

        Returns
        -------
        ndarray of shape (n, q, d) or None
            U, with the covariance ``U'U`` of theta_i. None, by default, for a rule that does not
            know how tasks vary.
        """
        return None

    def uncertainty(
        self, n_parameters: int, information: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """How sure predictions are: a row's target has the variance ``noise (1 + |U phi|^2)``.

        Parameters
        ----------
        n_parameters : int
            d.
        information : ndarray of shape (n, k), default=None
            Of n tasks; None for one task of which nothing is known.

        Returns
        -------
        noise : ndarray of shape (n,) or (n, n_targets)
        U : ndarray of shape (n, q, d)
            ``noise * U'U`` is the covariance of theta_i.
        """
        raise ValueError(
            "return_std=True needs a rule that knows how tasks vary, such as adaptation='learned'; "
            f"{type(self).__name__} does not."
        )

    def deviation(self, V: Floats, risk: Risk | None = None) -> Floats | None:
        """Standard deviations of the targets of rows, given a task's support rows.

        Parameters
        ----------
        V : ndarray of shape (..., k, d)
            Rows, of each task of a stack.
        risk : Risk, default=None
            Support rows, where the rule is `of_targets` as in `information`; None for tasks of
            which nothing is known.

        Returns
        -------
        ndarray of shape (..., k) or (n_targets, ..., k), or None
            None, by default, for a rule that does not know how tasks vary.
        """
        return None

    def quantile(self, q: float, n_rows: Floats) -> Floats:
        """How many deviations the quantile q of targets is above the mean; by default the normal's.

        Parameters
        ----------
        q : float
        n_rows : ndarray of shape (n,)
            Support rows of n tasks.

        Returns
        -------
        ndarray of shape (n,) or (n, n_targets)
        """
        return np.full(len(n_rows), norm.ppf(q))

    def noise_ratio(self, information: Floats | None = None) -> Floats | float:
        """The variance of tasks' noise in units of that which all share; by default 1.

        Parameters
        ----------
        information : ndarray of shape (n, k), default=None
            Of n tasks; None for one task of which nothing is known.

        Returns
        -------
        float or ndarray of shape (n,) or (n, n_targets)
        """
        return 1.0

    def slope_form(self, risk: Risk) -> SlopeForm | None:
        """The rule's `SlopeForm` on a stack of tasks; None, by default, where it has none.

        Parameters
        ----------
        risk : Risk
            Support rows of n tasks.

        Returns
        -------
        SlopeForm or None
        """
        return None
