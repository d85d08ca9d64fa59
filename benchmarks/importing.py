"""How long --init_from=hf:FOLDER takes, and how much memory of the host.

  python -m benchmarks.importing --shape=llama3_1b
  python -m benchmarks.importing --shape=llama3_8b --folder=/tmp/8b

Writes a folder of random bfloat16 weights of that shape unless it is there, in
files of 1 GB, tensor by tensor. Then, in turns: reads all files once, for
comparison, and, in a process of its own, imports them onto 8 simulated devices
and tells that process's largest memory. Before each of both the files are
evicted from the page cache: what the last one left there would favour one of
them. The folder stays.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

_GIGABYTE = 10**9


def main() -> None:
  """Makes the folder, reads it, and imports it in another process."""
  flags = argparse.ArgumentParser()
  flags.add_argument("--shape", default="llama3_1b", help="of models.presets")
  flags.add_argument("--folder", type=pathlib.Path)
  flags.add_argument("--turns", type=int, default=3)
  flags.add_argument("--child", action="store_true")
  given = flags.parse_args()
  folder = given.folder or pathlib.Path(f"/tmp/importing_{given.shape}")
  if given.child:
    print(json.dumps(imported(given.shape, folder)))
    return
  if not (folder / "config.json").exists():
    write(given.shape, folder)
  size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
  print(f"files {size / 2**30:.2f} GiB")
  for _ in range(given.turns):
    evict(folder)
    seconds = read(folder)
    evict(folder)
    command = [sys.executable, "-m", "benchmarks.importing", "--child"]
    command += [f"--shape={given.shape}", f"--folder={folder}"]
    said = subprocess.run(
      command, check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(said.stdout.splitlines()[-1])
    ratio, over = found["seconds"] / seconds, found["peak"] - size
    print(
      f"read in {seconds:.1f} s, imported in {found['seconds']:.1f} s"
      f" ({ratio:.2f}x, {found['processor']:.0f} s of processors), peak"
      f" {found['peak'] / 2**30:.2f} GiB, {over / 2**30:.2f} over the size",
      flush=True,
    )


def evict(folder: pathlib.Path) -> None:
  """Makes the page cache forget the files, where the system can do so."""
  for path in folder.glob("*.safetensors"):
    with path.open("rb") as f:
      os.fsync(f.fileno())
      os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder: pathlib.Path) -> float:
  """Seconds to read all files, 16 MiB at a time."""
  start, buffer = time.monotonic(), bytearray(2**24)
  for path in sorted(folder.glob("*.safetensors")):
    with path.open("rb", buffering=0) as f:
      while f.readinto(buffer):
        pass
  return time.monotonic() - start


def write(shape: str, folder: pathlib.Path) -> None:
  """A folder of random weights; one tensor is in memory at once."""
  import dataclasses

  import ml_dtypes
  import numpy as np
  from safetensors.numpy import save_file

  from llm_jax import exporting
  from llm_jax.models import presets

  model = dataclasses.replace(getattr(presets, shape)())
  settings = exporting.settings_of(model)
  family, said = exporting.described(settings)
  s = settings
  sizes = {"L": s["num_layers"], "D": s["embed_dim"], "F": s["mlp_dim"]}
  sizes |= {"N": s["num_heads"], "K": s["num_kv_heads"], "H": s["head_dim"]}
  sizes |= {"V": s["vocab_size"], "W": s["vocab_size"], "E": s["embed_dim"]}
  sizes["M"] = s["experts"]["num"]
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(2**24, np.float32).astype(ml_dtypes.bfloat16)
  listed: dict[str, str] = {}
  held: dict[str, np.ndarray] = {}

  def flush() -> None:
    name = f"model-{len(set(listed.values())) + 1:05}.safetensors"
    save_file(held, folder / name)
    listed.update(dict.fromkeys(held, name))
    held.clear()

  for line in family.lines(settings):
    for _, name in line.names(sizes):
      dims = line.shape(sizes)
      held[name] = np.resize(noise, dims)
      if sum(x.nbytes for x in held.values()) > _GIGABYTE:
        flush()
  flush()
  index = {"metadata": {}, "weight_map": listed}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  (folder / "config.json").write_text(json.dumps(said))


def imported(shape: str, folder: pathlib.Path) -> dict[str, float]:
  """Seconds of an import as bfloat16, and bytes of this process at most."""
  import jax
  import jax.numpy as jnp

  from llm_jax import axes, host, importing
  from llm_jax import model as model_lib
  from llm_jax.models import presets
  from llm_jax.sharding import mesh as mesh_lib
  from llm_jax.sharding.mesh import MeshShape

  host.keep_memory()  # as every verb does
  mesh = mesh_lib.make(MeshShape(data=1, fsdp=-1))
  own = getattr(presets, shape)()
  model = importing.model(f"hf:{folder}", own)
  boxed = jax.eval_shape(model_lib.of_shape(model).init, jax.random.key(0))
  boxed = boxed["params"]
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=s),
    axes.unbox(boxed),
    axes.shardings(boxed, mesh),
  )
  start, before = time.monotonic(), time.process_time()
  params = importing.params(
    f"hf:{folder}", "init_from", model, abstract, axes.suffixes(boxed)
  )
  jax.block_until_ready(params)
  return {
    "seconds": time.monotonic() - start,
    "processor": time.process_time() - before,
    "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
  }


if __name__ == "__main__":
  os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
  os.environ["JAX_PLATFORMS"] = "cpu"
  main()
