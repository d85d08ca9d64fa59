"""Target tpu-vm: `gcloud compute tpus tpu-vm`."""

from launch import accelerators, tpu
from launch.settings import Settings

_GCLOUD = ["gcloud", "compute", "tpus", "tpu-vm"]


def render(settings: Settings, words: list[str], revision: str) -> str:
  """The script. States are those of `Node` in the TPU API, v2."""
  found = accelerators.of(settings.topology)
  where = tpu.where(settings)
  quiet = [*where, "--quiet"]
  return tpu.script(
    settings,
    words,
    revision,
    1,
    {
      "up": "READY",
      "gone": "PREEMPTED TERMINATED",
      "coming": (
        "CREATING STARTING RESTARTING REIMAGING REPAIRING STOPPING DELETING"
      ),
      "describe": [
        *[*_GCLOUD, "describe", settings.name, *where],
        "--format=value(state,acceleratorType,labels.llm_jax)",
      ],
      "create": [
        *[*_GCLOUD, "create", settings.name, *quiet],
        f"--accelerator-type={found.kind}",
        f"--version={settings.runtime or found.runtime}",
        *tpu.wanted(settings),
      ],
      "delete": [*_GCLOUD, "delete", settings.name, *quiet],
      "scp": [*_GCLOUD, "scp"],
      "ssh": [*_GCLOUD, "ssh", settings.name, *quiet],
      "where": quiet,
      "all": ["--worker=all"],
      "first": ["--worker=0"],
    },
  )
