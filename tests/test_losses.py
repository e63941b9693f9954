"""Losses, over the registry, against differences."""

import numpy as np
import pytest

from sklearn_maml.losses import LOSSES

Z = np.linspace(-5, 5, 41)
Y = np.linspace(0.25, 3, 41)[::-1]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_hessian_are_the_derivatives(name):
    loss, h = LOSSES[name](), 1e-5
    slope = (loss.value(Y, Z + h) - loss.value(Y, Z - h)) / (2 * h)
    bend = (loss.gradient(Y, Z + h) - loss.gradient(Y, Z - h)) / (2 * h)
    np.testing.assert_allclose(loss.gradient(Y, Z), slope, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(loss.hessian(Y, Z), bend, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_the_hessian_is_non_negative_bounded_and_as_constant_as_it_says(name):
    loss = LOSSES[name]()
    hessian = loss.hessian(Y, Z)
    assert (hessian >= 0).all()
    assert (hessian <= loss.hessian_bound).all()
    if loss.constant_hessian:
        assert (hessian == loss.hessian_bound).all()


@pytest.mark.parametrize("name", LOSSES)
def test_arguments_broadcast(name):
    loss = LOSSES[name]()
    for f in (loss.value, loss.gradient, loss.hessian):
        assert f(Y[:, None], Z[None, :]).shape == (len(Y), len(Z))


def test_the_link_of_the_squared_error_is_the_identity():
    assert (LOSSES["squared_error"]().inverse_link(Z) == Z).all()
