(
trap 'kill -TERM "${pids[@]}"; wait; exit 143' INT TERM
for left in $(seq 3 -1 0); do
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
  pids=()
  for i in $(seq 0 3); do
    JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m experiments.pretrain_tiny_stdlib train --steps=3 --workdir=runs/run-1 --coordinator=localhost:"$port" --num_processes=4 --process_id="$i" &
    pids+=($!)
  done
  code=0  # of the first that fails
  while [ "$code" = 0 ] && [ "${#pids[@]}" -gt 0 ]; do
    for i in "${!pids[@]}"; do
      kill -0 "${pids[i]}" 2>/dev/null && continue
      wait "${pids[i]}" || code=$?
      unset "pids[i]"
      [ "$code" = 0 ] || break
    done
    sleep 0.2
  done
  if [ "$code" != 0 ]; then
    [ "$code" = 143 ] || kill -TERM "${pids[@]}" 2>/dev/null
    (sleep 60; kill -KILL "${pids[@]}") 2>/dev/null &
    wait "${pids[@]}"
    kill $! 2>/dev/null
    wait
  fi
  case $code in 0|2|3) break ;; esac
  echo "launch: exit code $code, tries left: $left" >&2
done
exit "$code"
)
