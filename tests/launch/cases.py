"""Launches whose scripts are kept in goldens/.

`python -m tests.launch.cases` writes them anew, to be read line by line
beside the documentation that each renderer names.
"""

import pathlib

from launch import cli, command, settings
from launch.settings import Settings

GOLDENS = pathlib.Path(__file__).parent / "goldens"
ROOT = pathlib.Path(__file__).parent.parent.parent
REVISION = "0123456789abcdef0123456789abcdef01234567"
WORDS = ["experiments.pretrain_tiny_stdlib", "train", "--steps=3"]
QUOTED = [*WORDS, '--samples.prompts=it\'s $5,"a b"']

_TPU = {"name": "run-1", "zone": "us-east5-a", "bucket": "my-bucket"}
_GKE = {
  "cluster": "pods",
  "container": "us-docker.pkg.dev/my-project/my-repo/llm-jax:1",
}
CASES = {
  "local": (
    "local",
    Settings(name="run-1", processes=4, devices=2, restart=3),
    WORDS,
  ),
  "tpu-vm": ("tpu-vm", Settings(**_TPU, topology="v5p-16"), WORDS),
  "tpu-vm-spot": (
    "tpu-vm",
    Settings(
      **_TPU,
      topology="v6e-16",
      project="my-project",
      spot=True,
      retries=20,
      runtime="v2-alpha-tpuv6e",
      network="my-network",
      service_account="me@my-project.iam.gserviceaccount.com",
      kill_stale=True,
      keep=True,
      env=("HF_HOME=/tmp/hf", "NOTE=a b"),
    ),
    QUOTED,
  ),
  "queued-resource": (
    "queued-resource",
    Settings(**_TPU, topology="v5e-8", reserved=True),
    WORDS,
  ),
  "queued-resource-slices": (
    "queued-resource",
    Settings(**_TPU, topology="v5p-16", slices=2, spot=True),
    WORDS,
  ),
  "gke": ("gke", Settings(**_TPU, **_GKE, topology="v5litepod-256"), WORDS),
  "gke-slices": (
    "gke",
    Settings(
      **_TPU,
      **_GKE,
      topology="tpu7x-128",
      slices=4,
      project="my-project",
      spot=True,
      priority="high",
      retries=10,
      grace=120,
      env=("HF_HOME=/tmp/hf",),
    ),
    QUOTED,
  ),
  "slurm": (
    "slurm",
    Settings(name="run-1", shared="/data/runs", venv="/data/venv"),
    WORDS,
  ),
  "slurm-container": (
    "slurm",
    Settings(
      name="run-1",
      shared="/data/runs/",
      container="nvcr.io#nvidia/jax:25.10-py3",
      nodes=16,
      gpus_per_node=4,
      cpus_per_gpu=16,
      partition="h100",
      account="research",
      time="2-00:00:00",
      grace=300,
      retries=0,
      env=("NCCL_DEBUG=WARN",),
    ),
    QUOTED,
  ),
}


def render(target: str, given: Settings, words: list[str]) -> str:
  """The script, of a revision that is always the same."""
  settings.check(given, target)
  command.check(words, ROOT, target)
  return cli.RENDER[target](given, words, REVISION)


if __name__ == "__main__":
  for case, (target, given, words) in CASES.items():
    (GOLDENS / f"{case}.sh").write_text(render(target, given, words))
