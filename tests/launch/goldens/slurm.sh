#!/usr/bin/env bash
# Run run-1 on 1 x 8 GPUs of a Slurm cluster
(
set -euo pipefail

name=run-1
revision=0123456789abcdef0123456789abcdef01234567
folder=/data/runs/run-1
pause=30

for program in git sbatch squeue; do
  if ! command -v "$program" >/dev/null; then
    echo "launch: $program is not installed here; nothing was done" >&2
    exit 2
  fi
done

job_script() {
cat <<'JOB'
#!/usr/bin/env bash
#SBATCH --job-name=run-1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --output=/data/runs/run-1/log
#SBATCH --open-mode=append
set -euo pipefail

revision=0123456789abcdef0123456789abcdef01234567
folder=/data/runs/run-1
retries=3
env=()
srun=(
  srun
  --cpus-per-task=8
  --kill-on-bad-exit=0
  --chdir=/data/runs/run-1/code-0123456789abcdef0123456789abcdef01234567
)
command=(
  /data/venv/bin/python -m experiments.pretrain_tiny_stdlib train
  --steps=3
  --workdir=/data/runs/run-1/run
  --distributed
)

# Every task is told of a task that fails by JAX, and ends; so the largest of
# their codes, which srun ends with, is not that of a kill.
code=0
env "${env[@]}" "LLM_JAX_REVISION=$revision" PYTHONUNBUFFERED=1 "${srun[@]}" \
  "${command[@]}" || code=$?
echo "$code" >"$folder/exit.new"
mv "$folder/exit.new" "$folder/exit"
echo "launch: start $((${SLURM_RESTART_COUNT:-0} + 1)) ended with $code"
case $code in 0 | 2 | 3) exit "$code" ;; esac
if ((${SLURM_RESTART_COUNT:-0} < retries)); then
  scontrol requeue "$SLURM_JOB_ID" || true # a preempted one is, already
fi
exit "$code"
JOB
}

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
)
