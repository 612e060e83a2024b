#!/usr/bin/env bash
# Instructions that the aarch64 kernels execute for each multiply-add, counted under qemu: the same to the
# last digit on every run, where time under emulation says nothing.
# usage: benches/instructions.sh [TYPE…]      default q4_0 q8_0 q4_k q5_k q6_k q5_0 f16 f16-rounded,
# which is with activations rounded to F16
# environment: LEVELS (dotprod i8mm; of f16-rounded with -fhm), TOKENS (1 4 16 128), ROWS (1024), COLUMNS (2048)
# Needs Debian's toolchain for aarch64 and qemu, which `.ci/run debian` installs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/lib.sh"
rows=${ROWS:-1024} columns=${COLUMNS:-2048}
read -ra levels <<<"${LEVELS:-dotprod i8mm}"
read -ra tokens <<<"${TOKENS:-1 4 16 128}"
[ $# -gt 0 ] || set -- q4_0 q8_0 q4_k q5_k q6_k q5_0 f16 f16-rounded

folder=target/instructions
mkdir -p "$folder"
cc -O2 -shared -fPIC benches/aarch64/count.c -o "$folder/libcount.so"
on_aarch64 build --quiet --release -p anynpu-cpu --example product
product=target/aarch64/aarch64-unknown-linux-gnu/release/examples/product

# executed TYPE TOKENS TIMES LEVEL: instructions of a whole run.
executed() {
  qemu-aarch64 -cpu max -plugin "$folder/libcount.so,out=$folder/count.txt" \
    "$product" "$1" "$rows" "$columns" "$2" "$3" "$4"
  awk '{ print $2 }' "$folder/count.txt"
}

printf '| %s×%s' "$rows" "$columns"; printf ' | %s' "${tokens[@]}"; printf ' |\n|---|'
printf -- '---:|%.0s' "${tokens[@]}"; printf '\n'
for type in "$@"; do
  for level in "${levels[@]}"; do
    if [ "$type" = f16-rounded ]; then level+=-fhm; fi
    printf '| %s %s' "$type" "$level"
    for n in "${tokens[@]}"; do
      once=$(executed "$type" "$n" 1 "$level") thrice=$(executed "$type" "$n" 3 "$level")
      awk -v d=$((thrice - once)) -v m=$((rows * columns * n * 2)) 'BEGIN { printf " | %.4f", d / m }'
    done
    printf ' |\n'
  done
done
