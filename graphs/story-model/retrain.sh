#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes story-Q8_0.gguf from nothing: environment, stories, vocabulary, training, export.
# Options are passed to train.py, e.g. `./retrain.sh --minutes 3`.
set -eu
cd "$(dirname "$0")"
python3 -m venv build/venv
build/venv/bin/pip install --quiet --requirement requirements.txt
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null; then
    build/venv/bin/pip install --quiet "$(grep '^jax==' requirements.txt | sed 's/jax/jax[cuda13]/')"
fi
build/venv/bin/python train.py --out build "$@"
build/venv/bin/python export.py --weights build --out .
