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
