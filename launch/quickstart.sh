#!/usr/bin/env bash
# Trains VGG5 on embedded images with one server and four devices on this machine, over emulated 4G links.
# Arguments are passed on as Hydra overrides, e.g.: bash launch/quickstart.sh network=wifi epochs=5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment ".[report]"
cd "$root"
exec "$venv/bin/python" -m pipar_rpc "$@"
