#!/bin/sh
# install.sh WHEEL: installs pipar_rpc from a wheel, or a checkout's folder, and what this machine needs for it.
set -eu
pipar_rpc=$(realpath "${1:?a wheel of pipar_rpc, or the folder of a checkout}")
cd "$(dirname "$0")"
. ./settings.sh
if [ -e device-requirements.txt ]; then # the light way: no Hydra, TensorBoard, matplotlib or scikit-learn
    "$PYTHON" -m pip install --requirement device-requirements.txt
    "$PYTHON" -m pip install --no-deps "$pipar_rpc"
else
    "$PYTHON" -m pip install "$pipar_rpc"
fi
