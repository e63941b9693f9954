"""The mixed models of five public data sets by lme4, beside those of sklearn_maml.

    python benchmarks/lme4_reference.py

runs ``lme4_reference.R`` where it finds Rscript with lme4, keeps the figures in
``lme4_reference.json``, and prints how far the two packages are apart. Without R it reads the
figures that are kept, if there are any. Needs the ``test`` extra.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
from public_suite import load

from sklearn_maml import MAMLRegressor, Proximal

SCRIPT = Path(__file__).with_suffix(".R")
KEPT = Path(__file__).with_suffix(".json")
NO_PACKAGES = 3


def figures():
    """What ``lme4_reference.R`` prints, as a dict; None without R, its packages and kept figures.

    Raises
    ------
    RuntimeError
        If the script fails.
    """
    if rscript := shutil.which("Rscript"):
        run = subprocess.run([rscript, str(SCRIPT)], capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return json.loads(run.stdout)
        if run.returncode != NO_PACKAGES:
            raise RuntimeError(f"{SCRIPT.name} failed:\n{run.stderr}")
    return json.loads(KEPT.read_text()) if KEPT.exists() else None


def differences(name, reference):
    """How far sklearn_maml is from lme4 on one data set.

    Parameters
    ----------
    name : str
        A data set of `public_suite`.
    reference : dict
        Its entry in `figures`.

    Returns
    -------
    dict of str to float
        "log_likelihood": ours less theirs. "fixed_effects", "covariance" and "random_effects": the
        largest difference, in units of standard deviations between groups (or of the residual's,
        for effects that do not differ). "residual_variance": relative.
    """
    data = load(name)
    model = MAMLRegressor(adaptation=Proximal(strength=1.0, metric="full"), random_state=0)
    found = model.fit(data.X, data.y, groups=data.groups).learned_
    names = [*(feature.replace("_", "") for feature in data.feature_names), "(Intercept)"]
    random = [names.index(effect) for effect in reference["random_names"]]
    fixed = np.array([reference["fixed_effects"][effect] for effect in names])
    unit = np.full(len(names), np.sqrt(found.residual_variance))
    covariance = np.array(reference["covariance"])
    deviation = np.sqrt(np.diagonal(found.covariance)[random])
    unit[random] = np.where(deviation > 0, deviation, unit[random])
    size = np.outer(unit[random], unit[random])
    model.coef_, model.intercept_ = found.fixed_effects[:-1], found.fixed_effects[-1]
    effects = []
    for group, expected in enumerate(reference["random_effects"]):
        rows = data.groups == group
        adapted = model.adapt(data.X[rows], data.y[rows])
        moved = np.append(adapted.coef_, adapted.intercept_) - found.fixed_effects
        effects.append((moved[random] - expected) / unit[random])
    ours = found.covariance[np.ix_(random, random)]
    return {
        "log_likelihood": found.log_likelihood - reference["log_likelihood"],
        "fixed_effects": float(np.abs((found.fixed_effects - fixed) / unit).max()),
        "covariance": float(np.abs((ours - covariance) / size).max()),
        "random_effects": float(np.abs(effects).max()),
        "residual_variance": float(found.residual_variance / reference["residual_variance"] - 1),
    }


def main():
    """Print the differences on each data set, and keep the figures of lme4."""
    found = figures()
    if found is None:
        print(f"No Rscript with lme4 here, and no {KEPT.name}: nothing to compare with.")
        return
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    print("made by", found.pop("made_by"))
    for name, reference in found.items():
        told = differences(name, reference)
        print(f"{name:12s}" + "  ".join(f"{what} {value:.1e}" for what, value in told.items()))


if __name__ == "__main__":
    main()
