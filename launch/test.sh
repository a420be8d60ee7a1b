#!/usr/bin/env bash
# Lint, types and all tests. Arguments are passed on to pytest, e.g.: bash launch/test.sh -k link
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment ".[dev]"
cd "$root"
bash launch/lint.sh
# Two at a time, file by file: most tests wait for processes of their own, and share one run within a file.
"$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
