#!/usr/bin/env bash
# Build sdist and wheel (the wheel from the sdist), check them, and test both without the source tree.
#
#   tests/packages.sh [pytest arguments]      by default tests/test_maml.py and tests/test_security.py
#
# PYTHON (.venv/bin/python by default) has the package's dependencies and the dev extra. What is tested is
# installed into a folder of its own, and tests are those of the sdist, beside which there is no package.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
(($#)) || set -- tests/test_maml.py tests/test_security.py
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m build --outdir "$folder/dist" . > "$folder/log" || { cat "$folder/log"; exit 1; }
"$python" -m twine check --strict "$folder"/dist/*
mkdir "$folder/outside"
tar -xzf "$folder"/dist/*.tar.gz -C "$folder/outside" --strip-components=1
rm -r "$folder/outside/sklearn_maml"
cd "$folder/outside"
for package in "$folder"/dist/*; do
  echo "== $(basename "$package")"
  "$python" -m pip install --quiet --no-deps --upgrade --target "$folder/installed" "$package"
  export PYTHONPATH=$folder/installed MPLBACKEND=Agg
  found=$("$python" -c 'import sklearn_maml; print(sklearn_maml.__file__)')
  [[ $found == "$folder"/installed/* ]] || { echo "imported from $found"; exit 1; }
  "$python" -m pytest -q -p no:cacheprovider "$@"
done
