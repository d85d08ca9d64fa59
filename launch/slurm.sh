found=''

say() { printf 'launch: %s\n' "$*" >&2; }

goes_on='the run goes on; the same command follows it, this ends it:'
trap 'say "$goes_on scancel $found"; exit 130' INT

# Ids of my jobs of this name, waiting, running or ending.
jobs_of_run() {
  squeue --noheader --user="$(id -un)" --name="$name" --format=%i
}

# The job but for its revision, with which it may have been started before.
same() { sed "s/[0-9a-f]\{40\}//g"; }

cd "$(git rev-parse --show-toplevel)"
if ! mkdir -p "$folder" || ! : >>"$folder/log"; then
  say "--shared: $folder cannot be written from here; nothing was done"
  exit 2
fi
line=$(($(wc -l <"$folder/log") + 1)) # what is written from now on is shown
found=$(jobs_of_run)
if [[ -n $found ]]; then
  if ! cmp -s <(job_script | same) <(same <"$folder/job.sh"); then
    say "job $found of that name runs another command: give another --name, or"
    say "end that one: scancel $found"
    exit 2
  fi
  say "job $found of that name is there; following it"
else
  if [[ ! -e $folder/code-$revision ]]; then
    mkdir -p "$folder/code-$revision.new"
    git archive "$revision" | tar -x -C "$folder/code-$revision.new"
    mv "$folder/code-$revision.new" "$folder/code-$revision"
  fi
  rm -f "$folder/exit"
  job_script >"$folder/job.sh"
  found=$(sbatch --parsable "$folder/job.sh" </dev/null)
  say "job $found"
fi

tail -n "+$line" -F "$folder/log" &
tail=$!
trap 'kill "$tail" 2>/dev/null' EXIT
# A job that is started again keeps its name and id.
while ! still=$(jobs_of_run) || [[ -n $still ]]; do sleep "$pause"; done
sleep 2 # for the last lines
code=$(cat "$folder/exit" 2>/dev/null) || code=1
say "ended with $code; log: $folder/log"
exit "$code"
