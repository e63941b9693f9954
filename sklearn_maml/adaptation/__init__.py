"""Adaptation rules: from meta-parameters and a task's support rows to the task's parameters.

A rule returns theta_i and its *pullback* ``V -> V J_i`` with ``J_i = d theta_i / d theta``. The
gradient, the exact solver and the certificate are made of nothing else, so a new rule gets all
three. To add one, write a subclass of `AdaptationRule` in a file of this folder, and its line in
`RULES`.
"""

from sklearn_maml.adaptation.gradient_steps import GradientSteps
from sklearn_maml.adaptation.proximal import Proximal
from sklearn_maml.adaptation.rule import AdaptationRule, SlopeForm
from sklearn_maml.adaptation.standardization import Standardization

__all__ = [
    "RULES",
    "AdaptationRule",
    "GradientSteps",
    "Proximal",
    "SlopeForm",
    "Standardization",
]

RULES = {"gradient_steps": GradientSteps, "learned": Proximal, "proximal": Proximal}
