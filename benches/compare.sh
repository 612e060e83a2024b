#!/usr/bin/env bash
# Speed beside other engines on the same files: builds llama.cpp (from its Python package, natively), OpenVINO GenAI and
# ONNX Runtime (Python packages), candle and the program of the machine's limits, then runs all by turns and prints the
# tables of benches/README.md. Building takes some ten minutes, all runs an hour and more.
#
# usage: benches/compare.sh [TYPE…] [OPTION…]      benches/compare.sh --help lists them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=target/rival
mkdir -p "$work"

python=$work/python/bin/python
if [ ! -x "$python" ]; then
  python3 -m venv "$work/python"
  CMAKE_ARGS="-DGGML_NATIVE=ON" "$work/python/bin/pip" install --quiet llama-cpp-python==0.3.36
  "$work/python/bin/pip" install --quiet openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0
fi
if ! "$python" -c 'import gguf, onnx, onnxruntime' 2>/dev/null; then
  "$python" -m pip install --quiet onnxruntime==1.32.0 onnx==1.23.2 gguf==0.19.0 numpy==2.4.6
fi
[ -x "$work/limits" ] || cc -O3 -march=native -pthread benches/limits.c -o "$work/limits"
cargo build --release --quiet --locked -p anynpu-cli -p anynpu-bench --bins
RUSTFLAGS="-C target-cpu=native" cargo build --release --quiet --locked \
  --manifest-path benches/rivals/candle/Cargo.toml --target-dir "$work/candle"
exec "$python" benches/compare.py "$@"
