#!/usr/bin/env bash
# Run run-1 on 1 x v5p-16
(
set -euo pipefail

name=run-1
revision=0123456789abcdef0123456789abcdef01234567
accelerator=v5p-16
hosts=2
retries=3
keep=false
pause=30
patience=150
label=made-by-launch
up=READY
gone='PREEMPTED TERMINATED'
coming='CREATING STARTING RESTARTING REIMAGING REPAIRING STOPPING DELETING'
describe=(
  gcloud compute tpus tpu-vm describe run-1
  --zone=us-east5-a
  '--format=value(state,acceleratorType,labels.llm_jax)'
)
create=(
  gcloud compute tpus tpu-vm create run-1
  --zone=us-east5-a
  --quiet
  --accelerator-type=v5p-16
  --version=v2-alpha-tpuv5
  --labels=llm_jax=made-by-launch
)
delete=(
  gcloud compute tpus tpu-vm delete run-1
  --zone=us-east5-a
  --quiet
)
scp=(gcloud compute tpus tpu-vm scp)
ssh=(
  gcloud compute tpus tpu-vm ssh run-1
  --zone=us-east5-a
  --quiet
)
where=(--zone=us-east5-a --quiet)
all=(--worker=all)
first=(--worker=0)

for program in git gcloud; do
  if ! command -v "$program" >/dev/null; then
    echo "launch: $program is not installed here; nothing was done" >&2
    exit 2
  fi
done

host_script() {
cat <<'HOST'
#!/usr/bin/env bash
set -euo pipefail

name=run-1
revision=0123456789abcdef0123456789abcdef01234567
kill_stale=false
env=()
command=(
  python -m experiments.pretrain_tiny_stdlib train
  --steps=3
  --workdir=gs://my-bucket/run-1
  --distributed
)

# What a host does for the run. Its answers begin with "llm_jax HOST ".
folder=$HOME/llm_jax/$name
code=$folder/code-$revision

say() { printf 'launch: %s: %s\n' "$(hostname)" "$*" >&2; }

# Whether the run is going on here: its first process knows its name.
going() {
  pid=$(cat "$folder/pid" 2>/dev/null) || return 1
  grep -qsz "^LLM_JAX_LAUNCH=$name\$" "/proc/$pid/environ"
}

# going, other (with another command), the code it ended with, or none.
state() {
  local now=none
  if going; then
    now=going
    if [[ $(cat "$folder/command") != "${command[*]@Q}" ]]; then now=other; fi
  elif [[ -e $folder/exit ]]; then
    now=$(cat "$folder/exit")
  fi
  printf 'llm_jax %s %s\n' "$(hostname)" "$now"
}

# The images have Python 3.10, llm_jax needs 3.11: uv brings it.
install() {
  if [[ -e $code/installed ]]; then return; fi
  mkdir -p "$code"
  tar -xzf "$HOME/llm_jax-$name.tar.gz" -C "$code"
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --clear --python 3.11 "$code/.venv"
  python3 -m uv pip install --quiet --python "$code/.venv/bin/python" \
    --constraints "$code/constraints.txt" --editable "${code}[gcs]" 'jax[tpu]'
  touch "$code/installed"
}

# A process that holds the TPU would make this one wait, or all others.
free() {
  local held
  if ! command -v fuser >/dev/null; then
    say "who holds the TPU is not known: there is no fuser"
  fi
  held=$(sudo fuser /dev/accel* /dev/vfio/* 2>/dev/null | xargs || true)
  if [[ -n $held ]]; then
    say "the TPU is held by process $held:"
    ps -o pid=,user=,etime=,args= -p "${held// /,}" >&2 || true
    if [[ $kill_stale != true ]]; then
      say "end it, or have it ended: --kill_stale"
      exit 2
    fi
    # shellcheck disable=SC2086  # one argument a process
    sudo kill -KILL $held
    sleep 5
  fi
  sudo rm -f /tmp/libtpu_lockfile # of whoever held it before
}

# Outlives the connection; its code is written when it ends. A SIGTERM is for
# the experiment, which saves.
start() {
  exec 9>"$folder/lock"
  flock 9 # of two launches, the second finds it going on
  if going; then return; fi
  free
  rm -f "$folder/exit"
  printf '%s\n' "${command[*]@Q}" >"$folder/command"
  if [[ -e $folder/log ]]; then mv "$folder/log" "$folder/log.before"; fi
  cd "$code"
  # Else JAX says nothing where it cannot have the TPU, and takes the CPU.
  env JAX_PLATFORMS=tpu,cpu "${env[@]}" "LLM_JAX_LAUNCH=$name" \
    "LLM_JAX_REVISION=$revision" PYTHONUNBUFFERED=1 \
    "PATH=$code/.venv/bin:$PATH" nohup setsid bash -c '
      trap : TERM
      "${@:2}"
      echo "$?" >"$1.new"
      mv "$1.new" "$1"' launch "$folder/exit" "${command[@]}" \
    >"$folder/log" 2>&1 </dev/null 9>&- &
  echo "$!" >"$folder/pid"
}

stop() {
  if ! going; then return; fi
  kill -TERM -- "-$pid"
  for ((i = 0; i < ${1:-90}; i++)); do
    if ! going; then return; fi
    sleep 1
  done
  kill -KILL -- "-$pid"
}

# The log from line $1 on, for $2 seconds, or until the run has ended.
follow() {
  if going; then
    timeout "$2" tail -n "+$1" --pid="$pid" -F "$folder/log" 2>/dev/null || true
  else
    tail -n "+$1" "$folder/log"
  fi
}

# Waits for the end, at most so many seconds; then as state.
ended() {
  for ((i = 0; i < $1; i += 5)); do
    if ! going; then break; fi
    sleep 5
  done
  state
}

"$@"
HOST
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf 'launch: %s\n' "$*" >&2; }

ending() { echo "${ssh[*]} ${all[*]} --command='bash llm_jax-$name.sh stop'"; }

goes_on='the run goes on; the same command follows it, this ends it:'
trap 'say "$goes_on $(ending)"; exit 130' INT

# Sets state, kind and ours: what the TPU is now. NONE: there is none.
look() {
  local found
  if found=$("${describe[@]}" 2>"$scratch/said" </dev/null); then
    IFS=$'\t' read -r state kind ours <<<"$found"
  elif grep -q NOT_FOUND "$scratch/said"; then
    state=NONE kind='' ours=''
  else
    cat "$scratch/said" >&2
    return 1
  fi
}

remove() {
  look || return
  if [[ $state == NONE ]]; then return; fi
  if [[ $ours != "$label" ]]; then
    say "$name was not made by a launch, and is left as it is"
    return 2
  fi
  "${delete[@]}" </dev/null
}

# Makes it if it is missing, anew if it was taken away, and waits for it.
ready() {
  local before='' anew=0
  while look || return; do
    if [[ -n $kind && $kind != "$accelerator" ]]; then
      say "$name is there, a $kind and no $accelerator: give another --name"
      return 2
    fi
    if [[ $state == "$up" ]]; then return; fi
    if [[ $state == NONE ]]; then
      "${create[@]}" </dev/null || return 1
    elif [[ " $gone " == *" $state "* ]]; then
      if ((anew++)); then
        say "$name is $state; why: ${describe[*]/--format=*/}"
        return 1
      fi
      say "$name is $state: it is made anew"
      remove || return
    elif [[ " $coming " == *" $state "* ]]; then
      if [[ $state != "$before" ]]; then say "$name is $state; waiting"; fi
      before=$state
    else
      say "$name is $state: start or delete it, then again"
      return 2
    fi
    sleep "$pause"
  done
}

on_all() {
  "${ssh[@]}" "${all[@]}" --command="bash llm_jax-$name.sh $*" </dev/null
}

on_first() {
  "${ssh[@]}" "${first[@]}" --command="bash llm_jax-$name.sh $*" </dev/null
}

# Sets states, the words of the hosts, each once. All must answer: gcloud goes
# on without slices that it cannot reach.
ask() {
  local said answered
  said=$(on_all "$@") || true
  said=$(awk '$1 == "llm_jax" {print $3}' <<<"$said")
  states=$(sort -u <<<"$said" | xargs)
  answered=$(wc -w <<<"$said" | xargs)
  if ((answered != hosts)); then
    say "$answered of $hosts hosts answer"
    return 1
  fi
}

any() { [[ " $states " == *" $1 "* ]]; }

# Whether one has ended before its work was done.
failed() {
  local state
  for state in $states; do
    case $state in going | 0) ;; *) return 0 ;; esac
  done
  return 1
}

# A key that ended a command was meant for the launch, even where bash has not
# heard of it.
heard() { if (($? == 130)); then kill -INT "$BASHPID"; fi; }

# Shows the first host's log, until all have ended.
watch() {
  local line=1
  while true; do
    on_first follow "$line" "$patience" | tee "$scratch/shown" || heard
    line=$((line + $(wc -l <"$scratch/shown")))
    ask ended 1 || return 1
    if failed && any going; then
      # JAX ends those who have lost a partner, after 100 seconds.
      ask ended "$patience" || return 1
      if any going; then
        say "hosts have ended, others go on ($states): all are ended"
        on_all stop || true
        break
      fi
    fi
    if ! any going; then break; fi
  done
  on_first follow "$line" 1 || true # what it said last
  if failed; then say "ended with ${states/going/}"; fi
  if any 2; then return 2; fi
  if any 3; then return 3; fi
  if failed; then return 1; fi
}

attempt() {
  ready || return
  "${scp[@]}" "$scratch/llm_jax-$name.sh" "$scratch/llm_jax-$name.tar.gz" \
    "$name:" "${all[@]}" "${where[@]}" </dev/null || return 1
  ask state || return 1
  if any other; then
    say "$name runs another command: give another --name, or end that one:"
    say "$(ending)"
    return 2
  fi
  if [[ $states == going ]]; then
    say "$name is going on; following it"
  else
    # All start together, or those that go on would wait for the others.
    if any going; then on_all stop || return 1; fi
    on_all install || return 1
    on_all start || return
  fi
  watch
}

cd "$(git rev-parse --show-toplevel)"
git archive --format=tar.gz --output="$scratch/llm_jax-$name.tar.gz" "$revision"
host_script >"$scratch/llm_jax-$name.sh"

# A project, zone or permission that is wrong now is wrong the next time, too.
if ! look; then
  say "gcloud cannot say what $name is, as above; nothing was done"
  exit 2
fi
code=1
for ((start = 0; start <= retries; start++)); do
  if ((start)); then
    sleep "$pause"
    say "start $((start + 1)) of $((retries + 1))"
  fi
  code=0
  attempt || code=$?
  case $code in 0 | 2 | 3) break ;; esac
done
if ((code == 0)) && [[ $keep == false ]]; then
  remove || say "$name is still there, and paid for, until: ${delete[*]}"
elif look && [[ $state != NONE ]]; then
  say "$name is still there, and paid for, until: ${delete[*]}"
fi
exit "$code"
)
