#!/usr/bin/env bash
# Speed of anynpu beside llama.cpp on a 1B-shaped model, alternating, medians of ROUNDS runs each.
# usage: benches/compare.sh [TYPE…]      types: q4_0 q8_0 f16 …; default q4_0 q8_0
# environment: ROUNDS (5), THREADS (all cores), PROMPT (512), GENERATE (128), PYTHON with
# llama-cpp-python installed (made under target/rival if unset: building llama.cpp takes minutes)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${ROUNDS:-5} threads=${THREADS:-$(nproc)} prompt=${PROMPT:-512} generate=${GENERATE:-128}
[ $# -gt 0 ] || set -- q4_0 q8_0

python=${PYTHON:-target/rival/bin/python}
if [ ! -x "$python" ]; then
  python3 -m venv target/rival
  CMAKE_ARGS="-DGGML_NATIVE=ON" target/rival/bin/pip install --quiet llama-cpp-python
fi
cargo build --release --quiet -p anynpu-cli -p anynpu-bench --bins

for type in "$@"; do
  model=target/rival-models/billion-$type.gguf
  mkdir -p target/rival-models
  [ -f "$model" ] || target/release/make_model billion "$model" --type "$type"
  rows=target/rival-models/rows-$type.jsonl
  : >"$rows"
  for _ in $(seq "$rounds"); do
    target/release/anynpu bench "$model" -p "$prompt" -n "$generate" -r 1 -t "$threads" -o jsonl >>"$rows"
    "$python" benches/rival.py "$model" "$threads" "$prompt" "$generate" >>"$rows"
  done
  TYPE=$type "$python" - "$rows" <<'PY'
import json, os, statistics, sys

samples = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    if row.get("engine") == "llama.cpp":
        samples.setdefault(("llama.cpp", "prefill"), []).append(row["prefill_tok_s"])
        samples.setdefault(("llama.cpp", "decode"), []).append(row["decode_tok_s"])
    else:
        phase = "prefill" if row["n_prompt"] else "decode"
        samples.setdefault(("anynpu", phase), []).append(row["avg_ts"])
for phase in ("prefill", "decode"):
    ours, theirs = samples[("anynpu", phase)], samples[("llama.cpp", phase)]
    told = [f"{statistics.median(s):.1f} ({min(s):.1f}-{max(s):.1f})" for s in (ours, theirs)]
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"| {os.environ['TYPE']} | {phase} | {told[0]} | {told[1]} | {ratio:.2f} |", flush=True)
PY
done
