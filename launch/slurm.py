"""Target slurm: a job of sbatch, one task a GPU.

slurm.schedmd.com/{sbatch,srun,squeue}.html and github.com/NVIDIA/pyxis/wiki:

- JAX gives a task the GPU of its SLURM_LOCALID (jax/_src/clusters), so a task
  must see all GPUs of its node: --gpus-per-node, never --gpus-per-task.
- --signal without B: is for the tasks, not for the batch script, which goes on
  and asks to be started again.
- srun has not taken --cpus-per-task from sbatch since 22.05.
"""

from launch import command, shell
from launch.settings import Settings


def render(settings: Settings, words: list[str], revision: str) -> str:
  """The script."""
  folder = _folder(settings)
  variables = {
    "name": settings.name,
    "revision": revision,
    "folder": folder,
    "pause": settings.pause,
  }
  job = _job(settings, words, folder, revision)
  function = shell.heredoc("", "JOB", job).replace("cat > ", "cat ", 1)
  return shell.script(
    f"Run {settings.name} on {settings.nodes} x {settings.gpus_per_node} GPUs"
    " of a Slurm cluster",
    variables,
    shell.needs("git", "sbatch", "squeue"),
    f"job_script() {{\n{function}}}\n",
    shell.body("slurm.sh"),
  )


def in_folder(settings: Settings, words: list[str]) -> list[str]:
  """The experiment's command line, with the run's folder."""
  return command.with_folder(words, f"{_folder(settings)}/run", "--shared")


def _folder(settings: Settings) -> str:
  return f"{settings.shared.rstrip('/')}/{settings.name}"


def _job(
  settings: Settings, words: list[str], folder: str, revision: str
) -> str:
  """The file that sbatch is given."""
  code = f"{folder}/code-{revision}"
  options = [
    f"--job-name={settings.name}",
    f"--nodes={settings.nodes}",
    f"--ntasks-per-node={settings.gpus_per_node}",
    f"--gpus-per-node={settings.gpus_per_node}",
    f"--cpus-per-task={settings.cpus_per_gpu}",
    f"--time={settings.time}",
    f"--signal=TERM@{settings.grace}",
    "--requeue",
    f"--output={folder}/log",
    "--open-mode=append",
  ]
  if settings.partition:
    options.append(f"--partition={settings.partition}")
  if settings.account:
    options.append(f"--account={settings.account}")
  srun = [
    "srun",
    f"--cpus-per-task={settings.cpus_per_gpu}",
    "--kill-on-bad-exit=0",
  ]
  python = f"{settings.venv}/bin/python"
  if settings.container:
    shared = settings.shared.rstrip("/")
    srun += [
      f"--container-image={settings.container}",
      f"--container-mounts={shared}:{shared}",
      f"--container-workdir={code}",
    ]
    python = "python"
  else:
    srun.append(f"--chdir={code}")
  words = in_folder(settings, words)
  variables = {
    "revision": revision,
    "folder": folder,
    "retries": settings.retries,
    "env": list(settings.env),
    "srun": srun,
    "command": [python, "-m", *words],
  }
  return "\n".join(
    [
      "#!/usr/bin/env bash",
      *(f"#SBATCH {option}" for option in options),
      "set -euo pipefail",
      "",
      shell.assignments(variables),
      shell.body("job.sh"),
    ]
  )
