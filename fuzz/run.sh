#!/bin/sh
# Fuzzes the circuit reader, then the GGUF patcher: fuzz/run.sh [seconds] [circuit|gguf]
# Circuit reader: libFuzzer where clang++ has it, else fuzz/driver.cpp; under AddressSanitizer and
# UBSan. GGUF patcher: atheris where it is installed, else random mutations.
# The corpus is replayed first. What is found stays in .build/fuzz/ and ends the run with an error.
set -eu
seconds=${1:-20}
what=${2:-both}
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
out=$root/.build/fuzz
mkdir -p "$out/circuit" "$out/gguf"
cd "$out"

fuzz_circuit_reader() {
  site=$("$python" -c "import sysconfig; print(sysconfig.get_path('platlib'))")
  includes="-I$root/include"
  for folder in "$site/torch/include" "$site/nlohmann_json/include" \
    "$site/cmeel.prefix/include/eigen3" /usr/include/eigen3; do
    [ ! -d "$folder" ] || includes="$includes -isystem $folder"
  done
  flags="-std=c++20 -O1 -g1 -DFMT_HEADER_ONLY=1 -fno-omit-frame-pointer $includes"
  flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=undefined"
  for file in fuzz/circuit_reader src/circuit_io src/provenance src/sha256; do
    echo "#include \"$root/$file.cpp\""  # the headers, which are most of it, compile once
  done > reader.cpp
  reader=reader.cpp
  limits="-max_total_time=$seconds -max_len=8192 -timeout=30 -rss_limit_mb=1024"

  echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' > probe.cpp
  clang=${CLANGXX:-clang++}
  # shellcheck disable=SC2086
  if "$clang" -fsanitize=fuzzer probe.cpp -o probe 2> probe.log; then
    "$clang" $flags -fsanitize=fuzzer $reader -o circuit_reader
    ./circuit_reader -runs=0 "$root/fuzz/corpus"
    echo "circuit reader: libFuzzer for $seconds s"
    ./circuit_reader $limits -dict="$root/fuzz/circuit.dict" -print_final_stats=1 \
      circuit "$root/fuzz/corpus"
  else
    ${CXX:-c++} $flags -c "$root/fuzz/driver.cpp" -o driver.o
    ${CXX:-c++} $flags -fsanitize-coverage=trace-pc $reader driver.o -o circuit_reader
    echo "circuit reader: fuzz/driver.cpp for $seconds s"
    ./circuit_reader $limits "$root/fuzz/corpus"
  fi
}

fuzz_gguf_patcher() {
  "$python" "$root/fuzz/gguf_patcher.py" -max_total_time="$seconds" -timeout=30 \
    -rss_limit_mb=2048 -print_final_stats=1 gguf "$root/fuzz/corpus_gguf"
}

[ "$what" = gguf ] || fuzz_circuit_reader
[ "$what" = circuit ] || fuzz_gguf_patcher
