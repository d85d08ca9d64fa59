scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf 'launch: %s\n' "$*" >&2; }

goes_on='the run goes on; the same command follows it, this ends it:'
trap 'say "$goes_on ${delete[*]}"; exit 130' INT

# Whether the cluster has a workload of this name in such a state.
there() {
  local said
  said=$("${list[@]}" --filter-by-status="$1" --filter-by-job="$name" \
    </dev/null) || {
    if [[ -n $said ]]; then echo "$said" >&2; fi # what is wrong
    exit 1
  }
  awk -v name="$name" '$1 == name {n++} END {exit !n}' <<<"$said"
}

cd "$(git rev-parse --show-toplevel)"
if there FINISHED; then
  say "$name has ended; it goes on from its last checkpoint"
  "${delete[@]}" </dev/null
fi
if there EVERYTHING; then
  say "$name is in the cluster; following it"
else
  # XPK puts the folder into the image: what all hosts run.
  mkdir "$scratch/code"
  git archive "$revision" | tar -x -C "$scratch/code"
  # Without an answer to its question whether to overwrite, it does not.
  "${create[@]}" --script-dir="$scratch/code" \
    --command="exec$(printf ' %q' "${command[@]}")" </dev/null
fi

code=0
"${list[@]}" --wait-for-job-completion="$name" </dev/null || code=$?
if ((code)); then
  said=$(kubectl logs --selector="xpk.google.com/workload=$name" \
    --tail=20 --prefix </dev/null) || true
  printf '%s\n' "$said"
  # What the experiment ended with is among the last lines.
  code=1
  if [[ $said == *EXIT_CODE=2* ]]; then code=2; fi
  say "$name has failed; the lines above are its hosts' last"
fi
exit "$code"
