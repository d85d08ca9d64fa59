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
