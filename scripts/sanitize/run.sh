#!/bin/sh
# Runs every kernel over odd sizes under AddressSanitizer and UndefinedBehaviourSanitizer: sh scripts/sanitize/run.sh
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
sources=$root/src/catreparam/kernels/compiled/csrc
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
compiler=${CXX:-c++}
flags="-std=c++17 -O1 -g -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-psabi -fno-tree-vectorize -pthread
  -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
generic=
avx2="-mavx2 -mfma -mf16c"
avx512="-mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mf16c"
sets=generic
define=
case $(uname -m) in x86_64 | amd64) sets="generic avx2 avx512" define=-DCATREPARAM_X86 ;; esac
for set in $sets; do
  eval "extra=\$$set"
  # shellcheck disable=SC2086
  $compiler $flags $extra -DCATREPARAM_KERNELS="$set" -c "$sources/kernels.cpp" -o "$folder/$set.o" &
done
wait
# shellcheck disable=SC2086
$compiler $flags $define -c "$sources/library.cpp" -o "$folder/library.o"
${PYTHON:-python3} "$root/scripts/sanitize/tables.py" "$root/src/catreparam/kernels/plan.py" > "$folder/tables.h"
# shellcheck disable=SC2086
$compiler $flags -I"$folder" "$root/scripts/sanitize/driver.cpp" "$folder"/*.o -o "$folder/driver"
"$folder/driver" "$sets"
