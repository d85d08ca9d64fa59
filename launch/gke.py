"""Target gke: `xpk workload create`.

Flags are those of xpk 1.16 (`xpk workload create --help`). It makes an image
of --base-docker-image with --script-dir at /app, where the command starts, and
restarts on the cluster after code 42 and 127 to 255, and those it is told:
1 is added, 2 is not. A SIGTERM reaches the first process of the command, so
that is Python: exec (its core/docker_container.py).
"""

from launch import accelerators, command, shell
from launch.settings import Settings

_XPK = ["xpk", "workload"]


def render(settings: Settings, words: list[str], revision: str) -> str:
  """The script."""
  found = accelerators.of(settings.topology)
  words = command.in_bucket(settings, words)
  project = [f"--project={settings.project}"] if settings.project else []
  where = [f"--cluster={settings.cluster}", f"--zone={settings.zone}", *project]
  variables = {
    "name": settings.name,
    "revision": revision,
    "list": [*_XPK, "list", *where],
    "delete": [*_XPK, "delete", *where, f"--workload={settings.name}"],
    "create": [
      *[*_XPK, "create", *where, f"--workload={settings.name}"],
      f"--tpu-type={found.kind}",
      f"--num-slices={settings.slices}",
      f"--base-docker-image={settings.container}",
      f"--priority={settings.priority}",
      f"--max-restarts={settings.retries}",
      "--restart-on-exit-codes=1",
      f"--termination-grace-period-seconds={settings.grace}",
      "--env=PYTHONUNBUFFERED=1",
      "--env=JAX_PLATFORMS=tpu,cpu",  # no TPU is an error, not a CPU
      f"--env=LLM_JAX_REVISION={revision}",
      *(f"--env={pair}" for pair in settings.env),
      *(["--spot"] if settings.spot else []),
    ],
    "command": ["python", "-m", *words],
  }
  return shell.script(
    f"Run {settings.name} on {settings.slices} x {found.kind} of GKE cluster"
    f" {settings.cluster}",
    variables,
    shell.needs("git", "xpk", "kubectl"),
    shell.body("gke.sh"),
  )
