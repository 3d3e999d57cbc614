#!/bin/sh
# Fuzzes the circuit reader: fuzz/run.sh [seconds]. libFuzzer where clang++ has it, else
# random mutation, both with AddressSanitizer and UBSan. Findings stay in .build/fuzz/.
set -eu
seconds=${1:-60}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
out=$root/.build/fuzz
mkdir -p "$out/corpus"
site=$("$python" -c "import sysconfig; print(sysconfig.get_path('platlib'))")
includes="-I$root/include"
for folder in "$site/torch/include" "$site/nlohmann_json/include" \
  "$site/cmeel.prefix/include/eigen3" /usr/include/eigen3; do
  [ -d "$folder" ] && includes="$includes -isystem $folder"
done
common="-std=c++20 -O1 -g -DFMT_HEADER_ONLY=1 -fno-omit-frame-pointer $includes"
reader="$root/fuzz/circuit_reader.cpp $root/src/circuit_io.cpp"
kind=random
program=$out/circuit_reader
if command -v clang++ > /dev/null && echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*,
    unsigned long) { return 0; }' > "$out/probe.cpp" &&
  clang++ -fsanitize=fuzzer,address "$out/probe.cpp" -o "$out/probe" 2> /dev/null; then
  kind=libFuzzer
fi
if [ "$kind" = libFuzzer ]; then
  # shellcheck disable=SC2086
  clang++ $common -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $reader \
    -o "$program"
else
  # shellcheck disable=SC2086
  ${CXX:-c++} $common -fsanitize=address,undefined -fno-sanitize-recover=undefined $reader \
    "$root/fuzz/random_driver.cpp" -o "$program"
fi
echo "fuzzing with $kind for $seconds s"
cd "$out"
if [ "$kind" = libFuzzer ]; then
  "$program" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 \
    -dict="$root/fuzz/circuit.dict" -print_final_stats=1 -verbosity=1 corpus "$root/fuzz/corpus"
else
  "$program" -max_total_time="$seconds" "$root/fuzz/corpus"
fi
