#!/usr/bin/env bash
# Everything that needs a GPU, in calls of at most ten minutes: is it right, which configurations are fastest,
# what does it take.
#
#   benchmarks/gpu_check.sh OUTDIR [first|check|tune|record|flow|training|others]
#
# first   the first call on a GPU: what it reaches, whether the defaults are right, the network beside cuDNN, each
#         launch beside its predicted time, TV-L1, the open questions, counters, the sanitizer; every line is printed
#         as soon as it is known
# check   builds; every GPU test; compute-sanitizer over every kernel
# tune    measures the configurations of every convolution into OUTDIR/home/tuned, then the open questions, and
#         what bounds the slowest steps
# record  the network against its peers, every convolution and every step; OUTDIR/record.json and .md
# flow    TV-L1, frames to two-stream logits, and FVD; OUTDIR/flow.json and .md
# training  steps of training against the plain network, eager and compiled; OUTDIR/training_gpu.json and .md
# others  the benchmarks of all else
#
# Without a second argument all but first, one after the other, as far as ten minutes go. TABLE names a table of
# tuned configurations (a file of `tune`) that all parts are to use: TABLE=a.json benchmarks/gpu_check.sh out record
#
# Needs torch with CUDA, nvcc, ninja, numpy, pytest and pytest-benchmark, no network; PYTHON chooses
# the interpreter. A part that fails, or is not done in its time, does not keep the next from running; a
# benchmark that is cut short keeps the rows it has.
# OUTDIR gets a log a part, the records of the benchmarks (.json) and their tables (.md). Exit status: 0 if all
# parts passed, 1 if one did not, 2 if nothing could be run.
set -uo pipefail

what=${2:-all}
if [ $# -lt 1 ] || [ $# -gt 2 ] || [[ ! $what =~ ^(all|first|check|tune|record|flow|training|others)$ ]]; then
  echo "usage: $0 OUTDIR [first|check|tune|record|flow|training|others]" >&2
  exit 2
fi
table=
if [ -n "${TABLE:-}" ]; then
  table=$(realpath -e -- "$TABLE") || exit 2
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
export FASTI3D_HOME=$out/home # tuned configurations and nothing else
mkdir -p "$FASTI3D_HOME/tuned"
[ -n "$table" ] && cp -- "$table" "$FASTI3D_HOME/tuned/"

summary=$out/summary.txt # a line each part, behind what they ran on
"$python" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)' | tee "$summary"
# part NAME SECONDS COMMAND...: runs the command, into OUTDIR/NAME.log, for no longer than that. It is
# interrupted as by Ctrl-C, upon which pytest-benchmark writes what it has.
part() {
  local name=$1 seconds=$2 start=$SECONDS state code
  shift 2
  ((seconds > limit - SECONDS)) && seconds=$((limit - SECONDS))
  if ((seconds < 5)); then
    state="left out, no time"
  else
    if [ -n "${shown:-}" ]; then
      timeout --signal=INT --kill-after=15 "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    else
      timeout --signal=INT --kill-after=15 "$seconds" "$@" > "$out/$name.log" 2>&1
    fi
    code=$?
    state=passed
    if ((code == 124 || code == 137)); then
      state="cut short, no time"
    elif ((code)); then
      state="FAILED ($code): $(grep -E '^(FAILED|ERROR|E  )|[Ee]rror' "$out/$name.log" | head -n 1 | cut -c 1-150)"
    fi
  fi
  printf '%-27s %4d s  %s\n' "$name" $((SECONDS - start)) "$state" | tee -a "$summary"
}
# light NAME SECONDS: a part of first_light.py, whose lines are printed as they come.
light() {
  local name=$1
  shown=1 part "$name" "$2" "$python" -u -m benchmarks.first_light "$name" "$out"
}
# benchmark SUITE NAME SECONDS PYTEST-ARGUMENTS...: of benchmarks/test_SUITE.py, recorded as NAME.
benchmark() {
  local suite=$1 name=$2 seconds=$3
  shift 3
  part "benchmark-$name" "$seconds" "$python" -m pytest -q -m gpu "benchmarks/test_$suite.py" --benchmark-only \
    --benchmark-json="$out/$name.json" "$@"
  [ -s "$out/$name.json" ] && "$python" benchmarks/report.py "$out/$name.json" --output "$out/$name.md"
}

# merge NAME RECORD...: those records that there are become one.
merge() {
  local merged=$1 records=() name
  shift
  for name in "$@"; do
    [ -s "$out/$name.json" ] && records+=("$out/$name.json")
  done
  part "report-$merged" 30 "$python" benchmarks/merge_records.py "${records[@]}" --output "$out/$merged.json"
  [ -s "$out/$merged.json" ] && "$python" benchmarks/report.py "$out/$merged.json" --output "$out/$merged.md"
}

# Test files by name: others need packages that the machine may lack.
shopt -s nullglob
tests=(tests/*_cuda.py tests/*/*_cuda.py)
# parity FILE SECONDS: what is neither a program under the sanitizer nor every candidate.
parity() {
  local name
  name=$(basename "$1" _cuda.py)
  part "parity-${name#test_}" "$2" "$python" -m pytest -q -rf -m gpu "$1" \
    -k "not sanitizer and not every_candidate"
}
check() {
  local file
  # The longest beside the others, as most of their time is the compiler's (some 150, 330 and 500 kernels, half
  # a second each) and nothing is timed here.
  part sanitizer 450 "$python" -m pytest -q -rf -m gpu "${tests[@]}" -k "sanitizer and not defaults" &
  part parity-candidates 450 "$python" -m pytest -q -rf -m gpu "${tests[@]}" -k every_candidate &
  for file in "${tests[@]}"; do
    case $file in
      *sanitizer*) ;; # nothing is left of it, which pytest fails over
      *conv3d_bn_relu* | *pools_triton*) parity "$file" 450 & ;;
      *) parity "$file" 300 ;;
    esac
  done
  wait
}
tune() {
  part tune 300 "$python" -m benchmarks.tune_table
  benchmark gpu_questions gpu_questions 120 -k "not stem"
  # By themselves: what the driver does with overlapping tensor maps may be the end of a process.
  benchmark gpu_questions gpu_stem 60 -k stem
  part profile 120 "$python" -m benchmarks.profile_steps
}
record() {
  benchmark i3d_forward i3d_forward 230 -k "not compile"
  benchmark gpu_layers gpu_layers 110
  # As long as there is, but for putting the records together.
  benchmark i3d_forward i3d_compiled $((limit - SECONDS - 30)) -k compile
  merge record i3d_forward gpu_layers i3d_compiled
}
flow() {
  benchmark tvl1_gpu tvl1_gpu 200
  benchmark two_stream two_stream 150
  benchmark fvd fvd 200
  merge flow tvl1_gpu two_stream fvd
}
training() {
  # Compiling the plain network's step takes minutes.
  benchmark training_gpu training_gpu 540
}
# Each has a time of its own: a suite more is a line more.
others() {
  benchmark mixed_block mixed_block 60
  benchmark max_pool3d_same max_pool3d_same 60
  benchmark i3d_head i3d_head 30
  benchmark frames frames 60
  benchmark fuse fuse 120
}

build() {
  part build 240 "$python" setup.py build_ext --inplace
}
first() {
  # Most of a build is one compiler's: beside what needs no extension.
  build &
  light machine 30
  light warm 60
  light parity 90
  light network 60
  light launches 40
  light baseline 100
  light overlap 30
  wait
  light pooled 60
  light flow 80
  benchmark gpu_questions gpu_questions 90 -k "slabs or tiles or stages"
  shown=1 part counters 90 "$python" -u -m benchmarks.profile_steps --steps 4
  part sanitizer-defaults 120 "$python" -m pytest -q -rf -m gpu "${tests[@]}" -k "sanitizer and defaults"
}

[ "$what" = first ] || build
if [ "$what" = all ]; then
  check
  tune
  record
  flow
  training
  others
else
  "$what"
fi

if tail -n +2 "$summary" | grep -qv ' passed$'; then
  exit 1
fi
