"""Where the time of a training step goes.

  python -m benchmarks.profile SHAPE [name=value ...]

Traces three steps on this machine and adds up the compiled operations by the
place in the model that they come from, forward and backward apart.
"""

import collections
import pathlib
import re
import sys
import tempfile

import jax

from benchmarks import jax_side

_STEPS = 3


def main() -> None:
  """Prints a table, milliseconds a step."""
  compiled, state, batches, _ = jax_side.prepare(sys.argv[1:])
  for i in range(2):
    state, metrics = compiled(state, batches[i])
  jax.block_until_ready(metrics)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for i in range(_STEPS):
        state, metrics = compiled(state, batches[i])
      jax.block_until_ready(metrics)
    spent = _durations(pathlib.Path(folder))
  sources = _sources(compiled.as_text())
  places: collections.Counter = collections.Counter()
  for name, duration in spent.items():
    places[_place(name, sources.get(name, ""))] += duration
  total = sum(places.values())
  print(f"{'ms/step':>10} {'share':>6}  {'pass':<9} {'kind':<8} where")
  for (way, kind, where), duration in places.most_common():
    if duration > total / 200:
      print(
        f"{duration / 1e6 / _STEPS:10.2f} {duration / total:6.1%}  {way:<9}"
        f" {kind:<8} {where}"
      )
  print(f"{total / 1e6 / _STEPS:10.2f} in all")


def _durations(folder: pathlib.Path) -> collections.Counter:
  """Name of a compiled operation -> nanoseconds."""
  spent: collections.Counter = collections.Counter()
  for path in folder.rglob("*.xplane.pb"):
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
      for line in plane.lines:
        for event in line.events:
          if any(key == "hlo_op" for key, _ in event.stats):
            spent[event.name] += event.duration_ns
  return spent


def _sources(text: str) -> dict[str, str]:
  """Name of a compiled operation -> the path of what it was traced from."""
  found = {}
  for line in text.splitlines():
    match = re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', line)
    if match:
      found.setdefault(*match.groups())
  return found


def _place(name: str, source: str) -> tuple[str, str, str]:
  way = "update"
  if "jvp(" in source:
    way = "backward" if "transpose(jvp" in source else "forward"
  # Fused matrix products of XLA's CPU backend are called ynn.
  kind = "matmul" if re.match("dot|ynn|cublas|gemm", name) else "other"
  if way == "update":
    return way, kind, "optimiser"
  match = re.search(r"/(attention_norm|mlp_norm|attention|mlp)/", source)
  return way, kind, match[1] if match else "embedding, head, loss"


if __name__ == "__main__":
  main()
