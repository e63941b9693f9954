"""Choosing parts by name or instance."""

import pytest
from sklearn.base import clone

from sklearn_maml import GradientSteps
from sklearn_maml._component import resolve
from sklearn_maml.adaptation import AdaptationRule
from sklearn_maml.losses import LOSSES, Loss, SquaredError


def test_a_name_and_an_instance_are_resolved():
    assert isinstance(resolve("squared_error", LOSSES, Loss, "loss"), SquaredError)
    loss = SquaredError()
    assert resolve(loss, LOSSES, Loss, "loss") is loss


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"loss='l2' is not known; expected one of 'squared_error'"
    ):
        resolve("l2", LOSSES, Loss, "loss")


@pytest.mark.parametrize("wrong", [3, None, SquaredError, GradientSteps()])
def test_what_is_neither_is_refused(wrong):
    with pytest.raises(TypeError, match="loss must be a name or an instance of Loss; got"):
        resolve(wrong, LOSSES, Loss, "loss")


def test_resolving_validates():
    with pytest.raises(ValueError, match="inner_lr must be positive"):
        resolve(GradientSteps(-1.0), {}, AdaptationRule, "adaptation")


def test_components_are_cloned_with_their_hyperparameters():
    assert clone(GradientSteps(0.3, 4)).get_params()["n_steps"] == 4


def test_without_names_only_an_instance_is_asked_for():
    with pytest.raises(
        ValueError, match="'steps' is not known; expected an instance of Adaptation"
    ):
        resolve("steps", {}, AdaptationRule, "adaptation")
