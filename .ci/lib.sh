# Steps and their summary, for .ci/run and .ci/full. Sourced, not run.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
export CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never CARGO_INCREMENTAL=0
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin

logs=$PWD/target/ci
mkdir -p "$logs"
only=("$@")
rows=() skipped=() failed=()
tests_passed=0 tests_failed=0 tests_ignored=0 tests_skipped=0

# Test data lies beside a checkout, or where the variable says.
if [ -z "${ANYNPU_TEST_DATA:-}" ] && [ -d ../shared/data ]; then
  ANYNPU_TEST_DATA=$(cd ../shared/data && pwd)
fi
if [ -n "${ANYNPU_TEST_DATA:-}" ]; then
  export ANYNPU_TEST_DATA
fi

# A step calls this to say that it cannot run here.
cannot() { echo "CANNOT: $*"; exit 77; }

# Puts into `used` the processor seconds of all that ran so far: on a busy machine they say what the
# clock does not. (`times` knows nothing in a subshell.)
processor_time() {
  times >"$logs/times"
  used=$(awk 'NR == 2 { for (n = 1; n <= 2; n++) { split($n, t, /[ms]/); s += t[1] * 60 + t[2] } print int(s) }' "$logs/times")
}

# step NAME COMMAND…: runs the command with its output in a log. A failure is told at once and at
# the end, and the other steps still run. With names on the command line, only those run.
step() {
  local name=$1 status=0 began=$SECONDS used worked log=$logs/$1.log
  shift
  if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
  echo "== $name"
  processor_time
  worked=$used
  # In the background, since `set -e` is off inside a condition.
  (set -euo pipefail; "$@") >"$log" 2>&1 & wait $! || status=$?
  local seconds=$((SECONDS - began)) counts=
  processor_time
  worked=$((used - worked))
  if grep -q '^test result:' "$log"; then count_tests "$log" || status=$?; fi
  case $status in
    0) echo "   ok, $seconds s$counts"; rows+=("ok|$seconds|$worked|$name$counts") ;;
    77) local why; why=$(sed -n 's/^CANNOT: //p' "$log" | tail -1)
      echo "   skipped: $why"; rows+=("skipped|$seconds|$worked|$name: $why") ;;
    *) echo "   FAILED, $seconds s; the end of $log:"
      tail -n 80 "$log" | sed 's/^/   | /'
      rows+=("FAILED|$seconds|$worked|$name$counts"); failed+=("$name") ;;
  esac
}

# Adds up what a log of tests says, in `counts` and in the sums. Fails if a test was skipped for
# another reason than the processor's or an instrument's, or for want of what an optional variable names, although the test
# data is there.
count_tests() {
  local p f i s
  read -r p f i < <(awk '/^test result:/ { for (n = 2; n <= NF; n++) {
      if ($n == "passed;") p += $(n-1); if ($n == "failed;") f += $(n-1); if ($n == "ignored;") i += $(n-1) } }
    END { print p+0, f+0, i+0 }' "$1")
  s=$(grep -c '^SKIPPED ' "$1" || true)
  tests_passed=$((tests_passed + p)) tests_failed=$((tests_failed + f))
  tests_ignored=$((tests_ignored + i)) tests_skipped=$((tests_skipped + s))
  counts=": $p passed, $f failed, $i ignored, $s skipped"
  while IFS= read -r line; do skipped+=("$name: $line"); done < <(grep '^SKIPPED ' "$1" | sort | uniq -c | sed 's/^ *1 //;s/^ *//')
  if [ -n "${ANYNPU_TEST_DATA:-}" ] && grep '^SKIPPED ' "$1" | grep -vqE ': (this (CPU|instrument) has no |ANYNPU_[A-Z_]* is not set)'; then
    echo "tests were skipped although ANYNPU_TEST_DATA is set" | tee -a "$1"
    return 1
  fi
}

# The table of steps; the exit status of the script.
summary() {
  local row state seconds worked what used
  processor_time
  echo "== summary: $SECONDS s in all, $used processor seconds; logs in $logs"
  printf '%-8s %7s %10s  %s\n' step seconds processor name
  for row in "${rows[@]}"; do
    IFS='|' read -r state seconds worked what <<<"$row"
    printf '%-8s %7s %10s  %s\n' "$state" "$seconds" "$worked" "$what"
  done
  echo "tests: $tests_passed passed, $tests_failed failed, $tests_ignored ignored, $tests_skipped skipped"
  if [ ${#skipped[@]} -gt 0 ]; then printf '  %s\n' "${skipped[@]}"; fi
  if [ -z "${ANYNPU_TEST_DATA:-}" ]; then echo "ANYNPU_TEST_DATA is not set: tests on real models did not run"; fi
  if [ ${#failed[@]} -gt 0 ]; then echo "FAILED: ${failed[*]}"; return 1; fi
}

qnn=$PWD/target/qnn/onnxruntime_qnn/libQnnHtp.so

# qnn_library PLATFORM FOLDER: Qualcomm's library, from the Python package that carries it: it may be used here, and is
# not committed.
qnn_library() {
  local platform=$1 folder=$2
  if [ -f "$folder/onnxruntime_qnn/libQnnHtp.so" ]; then return; fi
  command -v python3 >/dev/null || cannot "no python3 to fetch the package of Qualcomm's library with"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 \
    --platform "$platform" -d "$folder" onnxruntime-qnn==2.7.0 || return
  python3 - "$folder" <<'END'
import glob, re, sys, zipfile
wheel = glob.glob(sys.argv[1] + "/onnxruntime_qnn-2.7.0-*.whl")[0]
wanted = r"onnxruntime_qnn/libQnn(Htp|System)\.so|onnxruntime_qnn\.libs/.*"
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(sys.argv[1], [n for n in archive.namelist() if re.fullmatch(wanted, n)])
END
  rm "$folder"/*.whl
}
# Its tests are skipped without it.
qnn() {
  [ "$(uname -sm)" = "Linux x86_64" ] || cannot "the package has the emulator for x86-64 Linux only"
  qnn_library manylinux_2_35_x86_64 target/qnn || cannot "the package of Qualcomm's library can't be fetched"
}

# The second toolchain: Debian's, which has the standard library of aarch64 and its source.
debian_packages=(rustc-web cargo-web libstd-rust-web-dev:arm64 rust-web-src gcc-aarch64-linux-gnu
  libc6-dev-arm64-cross libc6:arm64 libgcc-s1:arm64 qemu-user)
have_debian() { dpkg -s "${debian_packages[@]}" >/dev/null 2>&1; }
install_debian() {
  command -v apt-get >/dev/null || cannot "not a Debian: the toolchain for other targets comes from its packages"
  if have_debian; then echo "already installed"; return; fi
  [ "$(id -u)" = 0 ] || cannot "not root: install ${debian_packages[*]} (after dpkg --add-architecture arm64)"
  export DEBIAN_FRONTEND=noninteractive
  dpkg --add-architecture arm64
  apt-get -o DPkg::Lock::Timeout=300 update
  apt-cache show rustc-web >/dev/null 2>&1 || cannot "this release of Debian has no rustc-web"
  apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${debian_packages[@]}"
}
debian_cargo() {
  have_debian || cannot "Debian's toolchain is not installed"
  RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc /usr/bin/cargo "$@"
}

# Cargo for aarch64 Linux, in a target folder of its own: on_aarch64 SUBCOMMAND ARGUMENTS…
on_aarch64() {
  CARGO_TARGET_DIR=target/aarch64 CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    debian_cargo "$1" --locked --target aarch64-unknown-linux-gnu "${@:2}"
}
# emulated CPU PROGRAM ARGUMENTS…: the loader and the C library are those of libc6:arm64. Not with -L
# /usr/aarch64-linux-gnu: that loader takes the other package's C library where versions differ, and
# threads hang. Nothing here takes long; a hang must not hold up the rest.
emulated() {
  timeout "${EMULATOR_SECONDS:-900}" qemu-aarch64 -cpu "$1" "${@:2}"
}

# Packages whose tests run under the emulator, which of their tests, and the list of the test programs: a
# line "folder name program" each. All are built by one command, so that they share their dependencies;
# with a test of the command line comes the program itself, in $aarch64_program.
aarch64_folders=(backends/cpu)
aarch64_packages=(-p anynpu-cpu)
aarch64_programs=(--test device --test ops)
aarch64_list=$logs/aarch64-programs.txt
aarch64_program=target/aarch64/aarch64-unknown-linux-gnu/debug/anynpu
aarch64_build() {
  local arguments=(--lib "${aarch64_programs[@]}" "${aarch64_packages[@]}")
  on_aarch64 test --no-run "${arguments[@]}"
  on_aarch64 test --no-run --message-format=json "${arguments[@]}" 2>/dev/null |
    sed -n "s|.*\"manifest_path\":\"$PWD/\([^\"]*\)/Cargo.toml\",\"target\":{[^}]*\"name\":\"\([^\"]*\)\".*\"executable\":\"\([^\"]*\)\".*|\1 \2 \3|p" |
    sort >"$aarch64_list"
  cat "$aarch64_list"
  local folder
  for folder in "${aarch64_folders[@]}"; do grep -q "^$folder " "$aarch64_list"; done
}

# aarch64_tests CPU FOLDER[:NAME]…: runs those test programs under that processor.
aarch64_tests() {
  local cpu=$1 wanted folder name program status=0
  shift
  have_debian || cannot "Debian's toolchain is not installed"
  [ -s "$aarch64_list" ] || { echo "run the step aarch64-build first"; return 1; }
  for wanted in "$@"; do
    while read -r folder name program; do
      [ "$folder" = "${wanted%:*}" ] || continue
      [ "$wanted" = "${wanted%:*}" ] || [ "$name" = "${wanted#*:}" ] || continue
      echo "-- $folder $name on $cpu"
      (cd "$folder" && CARGO_MANIFEST_DIR=$PWD PROPTEST_CASES=${PROPTEST_CASES:-16} \
        emulated "$cpu" "$program" --show-output ${skipped_under_emulation:-}) || status=1
    done <"$aarch64_list"
  done
  return $status
}

# Type checks of the library packages and the command line for a target without a linker here.
packages=(-p anynpu-ir -p anynpu-hal -p anynpu-graphs -p anynpu-cpu -p anynpu-backends
  -p anynpu-runtime -p anynpu)
check_target() {
  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/checks \
    debian_cargo check --locked -Zbuild-std --target "$1" "${packages[@]}" -p anynpu-cli
}
