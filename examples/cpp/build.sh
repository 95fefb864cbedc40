#!/bin/sh
# The plain way: one compiler call against the torch that $PYTHON imports. Usage: ./build.sh [OUTPUT]
# For CUDA packages: LIBRARIES='-ltorch_cuda -lc10_cuda' ./build.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
torch=$("${PYTHON:-python3}" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
# shellcheck disable=SC2086 # LIBRARIES are several words
exec "${CXX:-g++}" -std=c++20 -O2 "$here/service.cpp" -o "${1:-service}" \
  -I"$torch/include" -I"$torch/include/torch/csrc/api/include" \
  -L"$torch/lib" -Wl,-rpath,"$torch/lib" -Wl,--no-as-needed -ltorch_cpu -ltorch -lc10 ${LIBRARIES:-}
