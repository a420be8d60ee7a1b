#!/usr/bin/env bash
# Lint and types, as in launch/test.sh, without the tests; the pre-commit hook runs it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment ".[dev]"
cd "$root"
"$venv/bin/python" -m ruff check .
"$venv/bin/python" -m ruff format --check .
"$venv/bin/python" -m mypy
