"""Everything that a launch can be told, and which target reads it."""

import dataclasses
import re

from launch import accelerators
from llm_jax.config import field
from llm_jax.sharding.topologies import MOST_SLICES

TARGETS = {
  "local": "processes on this machine",
  "tpu-vm": "one TPU slice, by gcloud",
  "queued-resource": "TPU slices that are waited for, by gcloud",
  "gke": "TPU slices of a GKE cluster, by xpk",
  "slurm": "GPUs of a Slurm cluster, by sbatch",
}
_CLOUD = ("tpu-vm", "queued-resource", "gke")
_VM = ("tpu-vm", "queued-resource")
_FAR = (*_CLOUD, "slurm")
# What XPK, Slurm and Google's names of resources all take (RFC 1035, but
# shorter): xpk/parser/validators.py `name_type`.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9](/[-_./A-Za-z0-9]+)?")
_WORDS = (
  *("zone", "project", "runtime", "network", "service_account", "cluster"),
  *("container", "partition", "account", "venv"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """One object for all targets; `READ_BY` says who reads which field."""

  name: str = field("", "of the run, and of what is made for it")
  go: bool = field(False, "do what is printed; false = print it, do nothing")
  topology: str = field("", "TPU slice: v4-N, v5e-N, v5p-N, v6e-N, tpu7x-N")
  slices: int = field(
    1, "slices, joined by the data-center network", low=1, high=MOST_SLICES
  )
  zone: str = field("", "zone of the TPU or cluster, us-east5-a, say")
  project: str | None = field(None, "Google Cloud project; none = gcloud's own")
  bucket: str = field("", "the run's folder is gs://BUCKET/NAME")
  spot: bool = field(False, "cheaper machines that may be taken away")
  reserved: bool = field(False, "machines of a reservation")
  runtime: str | None = field(
    None, "software version of the TPU VM; none = its generation's own"
  )
  network: str | None = field(None, "VPC network; none = default")
  service_account: str | None = field(
    None, "whom the TPU VM acts as; none = Compute Engine's default"
  )
  kill_stale: bool = field(
    False, "end processes that hold the TPU; false = name them and stop"
  )
  keep: bool = field(False, "leave the TPU there when the run is done")
  cluster: str = field("", "GKE cluster, made by `xpk cluster create`")
  priority: str = field("medium", "of the workload in the cluster's queue")
  container: str | None = field(
    None, "image with Python 3.11 or newer and what pyproject.toml asks for"
  )
  shared: str = field("", "folder on a disk of all nodes; runs are in it")
  venv: str | None = field(None, "virtual environment on that disk")
  nodes: int = field(1, "nodes", low=1, high=16384)
  gpus_per_node: int = field(
    8, "GPUs of a node, each with a task", low=1, high=64
  )
  cpus_per_gpu: int = field(8, "CPU cores of a task", low=1, high=1024)
  partition: str | None = field(None, "Slurm partition; none = the default")
  account: str | None = field(None, "Slurm account; none = the default")
  time: str = field("24:00:00", "limit of one start, as Slurm writes it")
  grace: int = field(
    60, "seconds to save in, between SIGTERM and the end", low=0, high=86400
  )
  retries: int = field(
    3, "starts after the first: preempted, killed or failed", low=0, high=10000
  )
  pause: int = field(
    30, "seconds between looks at what is waited for", low=0, high=3600
  )
  env: tuple[str, ...] = field((), "NAME=VALUE for the processes")
  dirty: bool = field(False, "send uncommitted changes, too")
  processes: int = field(1, "how many", low=1, high=256)
  devices: int = field(
    0,
    "CPU devices that each process simulates; 0 = the machine's own",
    low=0,
    high=4096,
  )
  gpus: int = field(
    1,
    "of each of several processes, where the machine has GPUs",
    low=1,
    high=64,
  )
  restart: int = field(
    0,
    "starts after the first, of all processes, where one was lost",
    low=0,
    high=10000,
  )
  port: int = field(
    0, "where the first process is found; 0 = any free one", low=0, high=65535
  )


READ_BY = {
  "name": tuple(TARGETS),
  "go": tuple(TARGETS),
  "topology": _CLOUD,
  "slices": ("queued-resource", "gke"),
  "zone": _CLOUD,
  "project": _CLOUD,
  "bucket": _CLOUD,
  "spot": _CLOUD,
  "reserved": _VM,
  "runtime": _VM,
  "network": _VM,
  "service_account": _VM,
  "kill_stale": _VM,
  "keep": _VM,
  "cluster": ("gke",),
  "priority": ("gke",),
  "container": ("gke", "slurm"),
  "shared": ("slurm",),
  "venv": ("slurm",),
  "nodes": ("slurm",),
  "gpus_per_node": ("slurm",),
  "cpus_per_gpu": ("slurm",),
  "partition": ("slurm",),
  "account": ("slurm",),
  "time": ("slurm",),
  "grace": ("local", "gke", "slurm"),
  "retries": _FAR,
  "pause": (*_VM, "slurm"),
  "env": _FAR,
  "dirty": _FAR,
  "processes": ("local",),
  "devices": ("local",),
  "gpus": ("local",),
  "restart": ("local",),
  "port": ("local",),
}
_NEEDED = {
  "tpu-vm": ("name", "topology", "zone"),
  "queued-resource": ("name", "topology", "zone"),
  "gke": ("name", "topology", "zone", "cluster", "container"),
  "slurm": ("name", "shared"),
}
_PRIORITIES = ("very-low", "low", "medium", "high", "very-high")


def check(settings: Settings, target: str) -> None:
  """ValueError, one line, for what the target cannot be told."""
  for needed in _NEEDED.get(target, ()):
    if not getattr(settings, needed):
      raise ValueError(f"--{needed}: none given; {target} needs it")
  if settings.name and not _NAME.fullmatch(settings.name):
    raise ValueError(
      f"--name={settings.name}: must be 1 to 40 lower-case letters, digits and"
      " hyphens, a letter first and no hyphen last"
    )
  if "topology" in _NEEDED.get(target, ()):
    found = accelerators.of(settings.topology)
    if target in _VM and found.runtime is None and settings.runtime is None:
      raise ValueError(
        f"--topology={settings.topology}: is had by gke only, not by {target}"
      )
  if settings.bucket and (
    ".." in settings.bucket or not _BUCKET.fullmatch(settings.bucket)
  ):
    raise ValueError(
      f"--bucket={settings.bucket}: must be the name of a bucket, which has no"
      " capitals, or that and a /FOLDER, without gs://"
    )
  if settings.spot and settings.reserved:
    raise ValueError("--spot and --reserved: give one of them")
  if settings.priority not in _PRIORITIES:
    raise ValueError(
      f"--priority={settings.priority}: must be one of {', '.join(_PRIORITIES)}"
    )
  if target == "slurm":
    _check_slurm(settings)
  for name in _WORDS:
    word = getattr(settings, name)
    if word is not None and not re.fullmatch(r"[!-~]*", word):
      raise ValueError(f"--{name}={word}: must be one word of ASCII")
    if word == "" and target in READ_BY[name]:
      raise ValueError(f"--{name}=: no value given")
  given: set[str] = set()
  for pair in settings.env:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[^\n]*", pair):
      raise ValueError(f"--env={pair}: must be NAME=VALUE, between commas")
    name = pair.partition("=")[0]
    if name in given:
      raise ValueError(f"--env={name}: given twice; give it once")
    given.add(name)


def _check_slurm(settings: Settings) -> None:
  if (settings.container is None) == (settings.venv is None):
    raise ValueError(
      "--container or --venv: one of them says where Python and its packages"
      " are"
    )
  for name in ("shared", "venv"):
    path = getattr(settings, name)
    if path and not re.fullmatch(r"/[-_.+/A-Za-z0-9]*", path):
      raise ValueError(
        f"--{name}={path}: must be a whole path, without spaces or commas"
      )
  for name in ("partition", "account"):
    word = getattr(settings, name)
    if word is not None and not re.fullmatch(r"[-_.,+@A-Za-z0-9]+", word):
      raise ValueError(f"--{name}={word}: must be a name, without spaces")
  if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", settings.time):
    raise ValueError(
      f"--time={settings.time}: must be minutes, [days-]hours:minutes:seconds"
      " or days-hours"
    )
