#!/usr/bin/env bash
# The Python tests beside other releases of what cna stands on, in an environment of their own:
#   scripts/companions.sh newest    everything of requirements/ without its pins
#   scripts/companions.sh oldest    transformers 5.0, and the oldest of what it takes
# torch comes first and is then held: TORCH_NEWEST and TORCH_OLDEST, the pinned release by default. A Linux
# x86_64 wheel of the public index is a CUDA build of several GB, so another release is taken there only as
# a CPU build (torch==2.9.1+cpu, from an index that has it).
set -euo pipefail
cd "$(dirname "$0")/.."
which=${1:?newest or oldest}
pinned=$(grep -E '^torch==' requirements/dev.txt)
case $which in
  newest) torch=${TORCH_NEWEST:-$pinned} ;;
  oldest) torch=${TORCH_OLDEST:-$pinned} ;;
  *) echo "companions: expected newest or oldest, got '$which'" >&2; exit 2 ;;
esac
if [ "$(uname -sm)" = "Linux x86_64" ] && [ "$torch" != "$pinned" ] && [[ $torch != *+cpu* ]]; then
  echo "companions: expected a CPU build of torch, got '$torch'; name one such as torch==2.9.1+cpu" >&2
  exit 2
fi

venv=.venv-$which
held=.build/companions-$which.txt
wanted=.build/companions-$which-wanted.txt
mkdir -p .build
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/pip" "$1" -q --disable-pip-version-check --no-compile "${@:2}"; }
pip install "$torch"
"$venv/bin/python" -c 'import torch; print(f"torch=={torch.__version__}")' > "$held"

# A pin "name==1.2; marker" becomes "name; marker".
unpinned() { grep -vhE '^(#|$|torch==)' "$@" | sed -E 's/==[^;]+//'; }
if [ "$which" = newest ]; then
  unpinned requirements/dev.txt requirements/evaluation.txt > "$wanted"
  pip install -U -c "$held" -r "$wanted"
  unpinned requirements/no-deps.txt | xargs "$venv/bin/pip" install -q -U --no-deps
else
  # What the old transformers does not take with it goes back as far as it asks; the tools stay.
  echo 'transformers==5.0.0' >> "$held"
  grep -vhE '^(#|$|torch==|transformers==|tokenizers==|safetensors==|accelerate==)' \
    requirements/dev.txt requirements/evaluation.txt > "$wanted"
  pip install -c "$held" transformers==5.0.0 accelerate -r "$wanted"
  pip install --no-deps -r requirements/no-deps.txt
fi
"$venv/bin/pip" install -q --no-build-isolation --no-deps . -Cbuild-dir=".build/companions-$which"
"$venv/bin/python" - <<'PYTHON'
from importlib import metadata
for name in ("torch", "transformers", "tokenizers", "huggingface-hub", "numpy", "pandas", "peft"):
    print(name, metadata.version(name))
PYTHON
# What goes through torch, transformers, tokenizers, safetensors and peft; pages and C++ builds do not.
"$venv/bin/python" -m pytest -n "${WORKERS:-2}" \
  tests/python/{base,circuits,hosts,measure,prompts,ship}
