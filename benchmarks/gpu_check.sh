#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most ten minutes: build, parity, sanitizer, benchmarks.
#
#   benchmarks/gpu_check.sh OUTDIR
#
# Needs torch with CUDA, nvcc, ninja, pybind11, numpy, pytest and pytest-benchmark, no network; PYTHON chooses
# the interpreter. A part that fails, or is not done in its time, does not keep the next from running.
# OUTDIR gets a log a part, the records of the benchmarks (.json) and their tables (.md). Exit status: 0 if all
# parts passed, 1 if one did not, 2 if nothing could be run.
set -uo pipefail

if [ $# -ne 1 ]; then
  echo "usage: $0 OUTDIR" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
readonly limit=570 # seconds in all, with room for starting and the summary

if ! capability=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2> "$out/gpu.log"); then
  echo "torch finds no CUDA GPU: $(tail -n 1 "$out/gpu.log")" >&2
  exit 2
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export FASTI3D_REQUIRE_CUDA=1 FASTI3D_BUILD=cuda TORCH_CUDA_ARCH_LIST=$capability

summary=()
failed=0
# part NAME SECONDS COMMAND...: runs the command, into OUTDIR/NAME.log, for no longer than that.
part() {
  local name=$1 seconds=$2 start=$SECONDS state
  shift 2
  ((seconds > limit - SECONDS)) && seconds=$((limit - SECONDS))
  if ((seconds < 5)); then
    state="left out, no time"
    failed=1
  elif timeout --kill-after=5 "$seconds" "$@" > "$out/$name.log" 2>&1; then
    state=passed
  else
    state="FAILED ($?): $(grep -E '^(FAILED|ERROR|E  )|[Ee]rror' "$out/$name.log" | head -n 1 | cut -c 1-150)"
    failed=1
  fi
  summary+=("$(printf '%-27s %4d s  %s' "$name" $((SECONDS - start)) "$state")")
  echo "${summary[-1]}"
}
run_benchmarks() {
  part "benchmark-$1" "$2" "$python" -m pytest -q -m gpu "benchmarks/test_$1.py" --benchmark-only \
    --benchmark-json="$out/$1.json"
  [ -s "$out/$1.json" ] && "$python" benchmarks/report.py "$out/$1.json" --output "$out/$1.md"
}

# Test files by name: others need packages that the machine may lack.
shopt -s nullglob
tests=(tests/*_cuda.py tests/ops/*_cuda.py tests/metrics/*_cuda.py)
part build 240 "$python" setup.py build_ext --inplace
for file in "${tests[@]}"; do
  name=$(basename "$file" _cuda.py)
  part "parity-${name#test_}" 150 "$python" -m pytest -q -rf -m gpu "$file" -k "not sanitizer"
done
part sanitizer 200 "$python" -m pytest -q -rf -m gpu "${tests[@]}" -k sanitizer
for suite in tvl1_gpu two_stream fvd i3d_forward conv3d mixed_block max_pool3d_same fuse frames i3d_head; do
  run_benchmarks "$suite" 150
done

{
  "$python" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)'
  printf '%s\n' "${summary[@]}"
} | tee "$out/summary.txt"
exit "$failed"
