#!/usr/bin/env bash
# Parity with PyTorch, NumPy and Keras on random cases: 200 networks trained for five steps, 500 augmentations, 100
# folders. Needs Python with torch, numpy, pillow and safetensors (PYTHON=…): pip install torch numpy pillow safetensors
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${1:-target/parity}
rm -rf "$out"
mkdir -p "$out"
out=$(realpath "$out")
HEADSTART_PARITY="$out" cargo test --test train parity:: -- --ignored
"${PYTHON:-python3}" tests/parity/check.py "$out"
