# Sourced by the other scripts: makes a virtual environment and installs the package into it, once.
#   PYTHON      interpreter to make it with (default python3)
#   PIPAR_VENV  where it goes (default .venv in the checkout)
# Sets root and venv. Call it with what to install: ".[report]" or ".[dev]".

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${PIPAR_VENV:-$root/.venv}

make_environment() {
    local requirement=$1 python=${PYTHON:-python3} wanted
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.version_info >= (3, 14))'; then
        echo "pipar_rpc needs Python 3.11, 3.12 or 3.13 (Hydra fails on 3.14); set PYTHON to one ($python is not)" >&2
        return 1
    fi
    wanted="$requirement $(cksum <"$root/pyproject.toml") $root"
    if [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    echo "Installing into $venv (PyTorch is several GB; this takes a few minutes) ..."
    "$python" -m venv "$venv"
    (cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$requirement")
    echo "$wanted" >"$venv/installed"
}
