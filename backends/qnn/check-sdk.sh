#!/usr/bin/env bash
# Holds what src/sys declares to the headers of a Qualcomm AI runtime SDK, which bindgen reads:
#   QNN_SDK_ROOT=/opt/qairt/2.51.0 bash backends/qnn/check-sdk.sh
# Needs libclang. Nothing of the SDK's goes anywhere but to target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${QNN_SDK_ROOT:?set it to the folder of the SDK}"
headers=$QNN_SDK_ROOT/include/QNN
if [ ! -f "$headers/QnnInterface.h" ]; then
  echo "no $headers/QnnInterface.h: QNN_SDK_ROOT is to be the folder that has include/QNN" >&2
  exit 1
fi
export PATH=$PWD/target/bindgen/bin:$PATH
command -v bindgen >/dev/null ||
  cargo install bindgen-cli --locked --version 0.72.1 --root target/bindgen
mkdir -p target/qnn-sdk
cat >target/qnn-sdk/all.h <<'END'
#include "QnnInterface.h"
#include "System/QnnSystemInterface.h"
#include "HTP/QnnHtpContext.h"
#include "HTP/QnnHtpDevice.h"
#include "HTP/QnnHtpPerfInfrastructure.h"
END
bindgen target/qnn-sdk/all.h --no-doc-comments --output target/qnn-sdk/bindings.rs \
  -- -I"$headers" -I"$headers/HTP" -I"$headers/System"
ANYNPU_QNN_BINDINGS=$PWD/target/qnn-sdk/bindings.rs \
  cargo test --locked -p anynpu-qnn --features check-sdk --test sdk -- --show-output
