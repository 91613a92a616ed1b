#!/usr/bin/env bash
# The look of CONTRIBUTING.md, checked: clang-format on all sources, shellcheck on scripts, the include rule,
# and clang-tidy on the C++ files that differ from BASE (default: origin/main, else HEAD~1, else all files).
#
#   tools/lint.sh            check everything (ALL=1: clang-tidy on all files)
#   tools/lint.sh --fast     check format, scripts and includes only
#   tools/lint.sh --fix      rewrite the C++ sources with clang-format
set -euo pipefail
cd "$(dirname "$0")/.."

# Tracked files, and new ones that git does not ignore.
sources() {
  git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while read -r path; do
    [[ -f $path ]] && echo "$path"
  done
}

mapfile -t cpp < <(sources '*.h' '*.cc' '*.cu')
if [[ ${1:-} == --fix ]]; then
  clang-format-14 -i "${cpp[@]}"
  exit 0
fi

echo "lint: format of ${#cpp[@]} files"
clang-format-14 --dry-run -Werror "${cpp[@]}"

echo "lint: shell scripts"
mapfile -t scripts < <(sources '*.sh' .ci/run)
shellcheck "${scripts[@]}"

echo "lint: length of files (at most 400 lines)"
too_long=0
for path in "${cpp[@]}"; do
  lines=$(wc -l < "$path")
  if ((lines > 400)); then
    echo "  $path: $lines lines"
    too_long=1
  fi
done
((too_long == 0))

echo "lint: include rule"
cmake -P tests/include_rule_test.cmake

[[ ${1:-} == --fast ]] && exit 0

base=${BASE:-origin/main}
git rev-parse --verify --quiet "$base^{commit}" > /dev/null || base=HEAD~1
if [[ ${ALL:-0} == 1 ]] || ! git rev-parse --verify --quiet "$base^{commit}" > /dev/null; then
  mapfile -t changed < <(sources '*.cc')
else
  mapfile -t changed < <({
    git diff --name-only --diff-filter=d "$base" -- '*.cc'
    git ls-files --others --exclude-standard -- '*.cc'
  } | sort -u)
fi

# clang reads the flags of the clang tree; gRPC and oneDNN sources only exist in the release tree.
cmake --preset fuzz > /dev/null
cmake --preset release -DBUILD_TESTING=ON > /dev/null
cmake --build build/release --target sluice > /dev/null  # generated headers
in_tree() { # in_tree DIRECTORY: those of the changed files that the tree compiles
  for path in "${changed[@]}"; do
    grep -q "\"file\": \"$PWD/$path\"" "$1/compile_commands.json" && echo "$path"
  done
}
mapfile -t with_clang < <(in_tree build/fuzz)
mapfile -t with_gcc < <(in_tree build/release | grep -vxFf <(printf '%s\n' "${with_clang[@]}"))
echo "lint: clang-tidy on $((${#with_clang[@]} + ${#with_gcc[@]})) of ${#changed[@]} changed files"
run_tidy() { # run_tidy DIRECTORY FILE...
  local directory=$1
  shift
  printf '%s\n' "$@" | xargs -r -P "$(nproc)" -n 4 clang-tidy-14 --quiet -p "$directory" \
    --extra-arg=-Wno-unknown-warning-option
}
[[ ${#with_clang[@]} -eq 0 ]] || run_tidy build/fuzz "${with_clang[@]}"
[[ ${#with_gcc[@]} -eq 0 ]] || run_tidy build/release "${with_gcc[@]}"
echo "lint: clean"
