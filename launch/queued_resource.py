"""Target queued-resource: `gcloud compute tpus queued-resources`."""

from launch import accelerators, tpu
from launch.settings import Settings

_GCLOUD = ["gcloud", "compute", "tpus", "queued-resources"]


def render(settings: Settings, words: list[str], revision: str) -> str:
  """The script. States are those of `QueuedResourceState`, TPU API v2."""
  found = accelerators.of(settings.topology)
  where = tpu.where(settings)
  quiet = [*where, "--quiet"]
  # "Value must be greater than 1"; one node has an id, several a prefix, and
  # only those of --node-count know each other as slices.
  nodes = (
    [f"--node-count={settings.slices}", f"--node-prefix={settings.name}"]
    if settings.slices > 1
    else [f"--node-id={settings.name}"]
  )
  node = "tpu.nodeSpec[0].node"
  return tpu.script(
    settings,
    words,
    revision,
    settings.slices,
    {
      "up": "ACTIVE",
      # A request that was served once is never served again.
      "gone": "FAILED SUSPENDED",
      "coming": (
        "CREATING ACCEPTED WAITING_FOR_RESOURCES PROVISIONING SUSPENDING"
        " DELETING"
      ),
      "describe": [
        *[*_GCLOUD, "describe", settings.name, *where],
        f"--format=value(state.state,{node}.acceleratorType,"
        f"{node}.labels.llm_jax)",
      ],
      "create": [
        *[*_GCLOUD, "create", settings.name, *quiet],
        f"--accelerator-type={found.kind}",
        f"--runtime-version={settings.runtime or found.runtime}",
        *nodes,
        *tpu.wanted(settings),
      ],
      # --force: with its nodes.
      "delete": [*_GCLOUD, "delete", settings.name, *quiet, "--force"],
      "scp": [*_GCLOUD, "scp"],
      "ssh": [*_GCLOUD, "ssh", settings.name, *quiet],
      "where": quiet,
      "all": ["--node=all", "--worker=all"],
      "first": ["--node=0", "--worker=0"],
    },
  )
