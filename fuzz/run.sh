#!/bin/sh
# Fuzzes the circuit reader: fuzz/run.sh [seconds]
# With libFuzzer where clang++ has it, else with random mutations (random_driver.cpp); both under
# AddressSanitizer and UBSan. What is found stays in .build/fuzz/ and ends the run with an error.
set -eu
seconds=${1:-60}
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
out=$root/.build/fuzz
mkdir -p "$out/corpus"

site=$("$python" -c "import sysconfig; print(sysconfig.get_path('platlib'))")
includes="-I$root/include"
for folder in "$site/torch/include" "$site/nlohmann_json/include" \
  "$site/cmeel.prefix/include/eigen3" /usr/include/eigen3; do
  [ ! -d "$folder" ] || includes="$includes -isystem $folder"
done
flags="-std=c++20 -O1 -g -DFMT_HEADER_ONLY=1 -fno-omit-frame-pointer $includes"
flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=undefined"
reader="$root/fuzz/circuit_reader.cpp $root/src/circuit_io.cpp"

echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' \
  > "$out/probe.cpp"
# shellcheck disable=SC2086
if clang++ -fsanitize=fuzzer "$out/probe.cpp" -o "$out/probe" 2> "$out/probe.log"; then
  clang++ $flags -fsanitize=fuzzer $reader -o "$out/circuit_reader"
  echo "fuzzing with libFuzzer for $seconds s"
  cd "$out"
  ./circuit_reader -max_total_time="$seconds" -max_len=8192 -timeout=30 -rss_limit_mb=1024 \
    -dict="$root/fuzz/circuit.dict" -print_final_stats=1 corpus "$root/fuzz/corpus"
else
  ${CXX:-c++} $flags $reader "$root/fuzz/random_driver.cpp" -o "$out/circuit_reader"
  echo "fuzzing with random mutations for $seconds s"
  cd "$out"
  ./circuit_reader -max_total_time="$seconds" "$root/fuzz/corpus"
fi
