"""What one TPU slice and several have in common: hosts reached by gcloud.

Flags, states and defaults are those of `gcloud help compute tpus tpu-vm` and
`queued-resources` (Google Cloud SDK 528). Three of its habits shape tpu.sh:

- `queued-resources ssh` reaches 64 hosts at a time, and waits for them: a run
  in the foreground would start on these only. So it starts in the background.
- It warns of slices that it cannot reach, and goes on with the rest; its code
  says nothing of them. So answers are counted.
- ssh's own code 255 is tried again ten times; the code of a remote command is
  handed on, the first that is not 0.
"""

from launch import accelerators, command, shell
from launch.settings import Settings

LABEL = "made-by-launch"


def script(
  settings: Settings,
  words: list[str],
  revision: str,
  slices: int,
  commands: dict[str, object],
) -> str:
  """The script; `commands` are those of gcloud that tpu.sh calls by name."""
  found = accelerators.of(settings.topology)
  words = command.in_bucket(settings, words)
  host = {
    "name": settings.name,
    "revision": revision,
    "kill_stale": settings.kill_stale,
    "env": list(settings.env),
    "command": ["python", "-m", *words],
  }
  variables = {
    "name": settings.name,
    "revision": revision,
    "accelerator": found.kind,
    "hosts": found.hosts * slices,
    "retries": settings.retries,
    "keep": settings.keep,
    "pause": settings.pause,
    "patience": 150,
    "label": LABEL,
    **commands,
  }
  text = shell.assignments(host) + "\n" + shell.body("host.sh")
  text = f"#!/usr/bin/env bash\nset -euo pipefail\n\n{text}"
  function = shell.heredoc("", "HOST", text).replace("cat > ", "cat ", 1)
  return shell.script(
    f"Run {settings.name} on {slices} x {found.kind}",
    variables,
    shell.needs("git", "gcloud"),
    f"host_script() {{\n{function}}}\n",
    shell.body("tpu.sh"),
  )


def where(settings: Settings) -> list[str]:
  """Zone and project, as every command of gcloud takes them."""
  project = [f"--project={settings.project}"] if settings.project else []
  return [f"--zone={settings.zone}", *project]


def wanted(settings: Settings) -> list[str]:
  """What both ways of making a TPU are told of it."""
  flags = [f"--labels=llm_jax={LABEL}"]
  if settings.network:
    flags.append(f"--network={settings.network}")
  if settings.service_account:
    flags.append(f"--service-account={settings.service_account}")
  if settings.spot:
    flags.append("--spot")
  if settings.reserved:
    flags.append("--reserved")
  return flags
