"""Pictures of a fitted model: its certificate, few-shot curve, convergence, effects, intervals.

In scikit-learn's form: a class method computes and draws, ``plot(ax=)`` draws again elsewhere, and
``ax_`` (or ``axes_``), ``figure_`` hold what was drawn on. matplotlib is imported when something is
drawn.
"""

from sklearn_maml.displays.convergence import ConvergenceDisplay
from sklearn_maml.displays.few_shot_curve import FewShotCurveDisplay
from sklearn_maml.displays.gap_certificate import GapCertificateDisplay
from sklearn_maml.displays.interval import IntervalDisplay
from sklearn_maml.displays.task_effects import TaskEffectsDisplay

__all__ = [
    "ConvergenceDisplay",
    "FewShotCurveDisplay",
    "GapCertificateDisplay",
    "IntervalDisplay",
    "TaskEffectsDisplay",
]
