#!/usr/bin/env bash
# Measures headstart beside PyTorch, Keras, ONNX Runtime, OpenVINO, ncnn, candle and rten in one run; see
# benches/README.md.
#
#   benches/peers/run.sh [--rounds N] [--only PATTERN]... [--add]
#
# HEADSTART_PEERS_VENV=DIR uses a Python environment that is already there instead of making one.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=target/peers
mkdir -p "$out"
venv=${HEADSTART_PEERS_VENV:-$out/venv}
if [ -z "${HEADSTART_PEERS_VENV:-}" ] && ! cmp -s benches/peers/requirements.txt "$venv/installed.txt"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r benches/peers/requirements.txt
  cp benches/peers/requirements.txt "$venv/installed.txt"
fi

# No caches of Python's beside the sources.
export PYTHONDONTWRITEBYTECODE=1

# The build anyone gets, whatever flags or kernels this shell has chosen.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET CARGO_TARGET_DIR HEADSTART_KERNELS
ours=$(cargo build --release --bench peers --message-format=json-render-diagnostics |
  "$venv/bin/python" -c 'import json, sys
built = [json.loads(line) for line in sys.stdin]
print(next(m["executable"] for m in built if m["reason"] == "compiler-artifact" and m["target"]["name"] == "peers"))')

# Where it cannot be built, the others go on without it.
rten=target/peers/rten/release/rten_peer
cargo build --release --locked --quiet --manifest-path benches/peers/rten/Cargo.toml --target-dir target/peers/rten ||
  rm -f "$rten"

cc -O3 -march=native -ffp-contract=fast -pthread benches/peers/peak.c -o "$out/peak"

"$venv/bin/python" benches/peers/make_models.py "$out/models" >"$out/models.log"

data=../shared/data/santa
[ -d "$data" ] || data=examples/santa/pictures
photographs=$out/photographs
"$venv/bin/python" benches/peers/make_photographs.py "$data" "$photographs"
exec "$venv/bin/python" benches/peers/compare.py --ours "$ours" --rten "$rten" --peak "$out/peak" --models "$out/models" --data "$data" --photographs "$photographs" --out target "$@"
