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
