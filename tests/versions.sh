#!/usr/bin/env bash
# The tests on each supported scikit-learn, each in an environment of its own.
#
#   tests/versions.sh                                        all versions, all tests
#   tests/versions.sh 1.6.1 1.9.1                            these versions
#   tests/versions.sh -- tests/test_estimator_checks.py      all versions, these pytest arguments
#
# Environments are kept in VERSIONS_DIR (.versions/ by default) and made with PYTHON (python3 by default).
# A test that is skipped fails the run: nothing may be left out on any version.
set -euo pipefail
cd "$(dirname "$0")/.."

# The first line is also the oldest version of each dependency that pyproject.toml admits, where Python is old enough for it.
declare -A pins=(
  [1.6.1]="numpy==1.24.4;python_version=='3.11' scipy==1.10.1;python_version=='3.11' joblib==1.3.2 threadpoolctl==3.2.0"
  [1.7.2]="numpy<2.3 scipy<1.16"
  [1.8.0]="numpy<2.4 scipy<1.17"
  [1.9.1]="numpy scipy"
)

versions=()
while (($#)) && [[ $1 != -- ]]; do versions+=("$1"); shift; done
(($# == 0)) || shift
((${#versions[@]})) || versions=(1.6.1 1.7.2 1.8.0 1.9.1)

export MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=1
folder=${VERSIONS_DIR:-.versions}
dependencies=$(sed -n '/^dependencies/,/^\[tool/p' pyproject.toml | cksum)
failed=()
for version in "${versions[@]}"; do
  environment=$folder/$version
  wanted="scikit-learn==$version ${pins[$version]-}"
  if [[ $(cat "$environment/wanted" 2>/dev/null) != "$wanted $dependencies" ]]; then
    rm -rf "$environment"
    "${PYTHON:-python3}" -m venv "$environment"
    # shellcheck disable=SC2086
    "$environment/bin/python" -m pip install --quiet $wanted -e ".[test]"
    echo "$wanted $dependencies" >"$environment/wanted"
  fi
  echo "== scikit-learn $version: $("$environment/bin/python" -m pip freeze |
    grep -iE '^(numpy|scipy|pandas|joblib|threadpoolctl)==' | tr '\n' ' ')"
  "$environment/bin/python" -m pytest -q -p no:cacheprovider "$@" | tee "$environment/log" || failed+=("$version")
  if grep -qE '^SKIPPED|[0-9]+ skipped' "$environment/log"; then failed+=("$version (skipped tests)"); fi
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "passed: ${versions[*]}"
