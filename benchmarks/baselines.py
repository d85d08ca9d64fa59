"""The transformer beside its ancestors, of equal size, over seeds.

  python -m benchmarks.baselines --folder=PATH [--seeds=0,1,2] [--steps=300]

An LSTM, a GRU and a transformer of 1.05 million parameters each read the
same batches of the embedded text in the same order; a Kneser-Ney 5-gram reads
all of the training split once. Told are bits a byte of the whole validation
split, mean and deviation over seeds, and tokens of training a second (the
median of a run's rows; of the 5-gram, tokens counted). Each run is trained by
the verb `train` and stays in --folder: what is there already is not done
again. About 10 minutes on 4 idle cores.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import statistics
import sys
import time
from typing import NamedTuple

import numpy as np

from experiments import pretrain_tiny_stdlib
from llm_jax import build, cli
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.evaluation import ngrams
from llm_jax.experiment import Experiment, Log, Samples, Validation
from llm_jax.models import sizing
from llm_jax.models.config import TransformerConfig
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.shape import Shape
from llm_jax.training.optimizers import Muon
from llm_jax.training.schedules import Schedule

_RECURRENT = RecurrentConfig(num_layers=2, norm="rms", max_length=128)
SHAPES: dict[str, Shape] = {
  "transformer": TransformerConfig(
    num_layers=4,
    embed_dim=128,
    mlp_dim=344,
    num_heads=4,
    max_length=128,
    unroll=0,
  ),
  "lstm": dataclasses.replace(_RECURRENT, embed_dim=200),
  "gru": dataclasses.replace(_RECURRENT, embed_dim=223, cell="gru"),
}
PEAK = {"transformer": 5e-3, "lstm": 1e-2, "gru": 1e-2}
ALIKE = 0.02  # of a count of parameters, that models may differ by
ORDER = 5


class Row(NamedTuple):
  """A line of the table."""

  name: str
  size: int
  bits: list[float]  # a byte, of each seed
  speed: list[float]  # tokens a second


def experiment(name: str, seed: int, steps: int) -> Experiment:
  """What one run does; all differ in model and learning rate alone."""
  return dataclasses.replace(
    pretrain_tiny_stdlib.EXPERIMENT,
    model=SHAPES[name],
    optimizer=Muon(
      peak=PEAK[name],
      schedule=Schedule("cosine", warmup=30),
      weight_decay=0.1,
    ),
    steps=steps,
    seed=seed,
    checkpoints=Checkpoints(every=0, keep=1),
    validation=Validation(every=steps, batches=0),
    samples=Samples(every=0),
    log=Log(every=10, tensorboard=False),
  )


def size(name: str) -> int:
  """Parameters of a model."""
  shape = model_lib.expected_shape(experiment(name, 0, 1))
  return sizing.parameters(shape).total


def check_sizes() -> None:
  """ValueError where the models are not of a size."""
  sizes = {name: size(name) for name in SHAPES}
  if max(sizes.values()) > (1 + ALIKE) * min(sizes.values()):
    raise ValueError(f"models of other sizes: {sizes}")


def measure(
  name: str, seed: int, steps: int, home: pathlib.Path
) -> tuple[float, float]:
  """Bits a byte and tokens a second of a run, trained if it is not there."""
  path = home / f"{name}_{seed}" / "metrics.jsonl"
  made = experiment(name, seed, steps)
  if not (found := _validated(path, steps)):
    given = [f"baselines_{name}", "train", f"--workdir={path.parent}"]
    if code := cli.main(made, given, given[0]):
      raise SystemExit(code)
    found = _validated(path, steps)
  speeds = [
    row["tokens_per_second"]
    for row in _rows(path)
    if row.get("tokens_per_second") and row["step"] > made.log.every
  ]
  return found[0]["bits_per_byte"], statistics.median(speeds)


def _rows(path: pathlib.Path) -> list[dict]:
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def _validated(path: pathlib.Path, steps: int) -> list[dict]:
  """The row of the end of a run; none where it has not come there."""
  return [
    row
    for row in _rows(path)
    if row["split"] == "validation" and row["step"] == steps
  ]


def count(home: pathlib.Path) -> Row:
  """The 5-gram model, counted anew: on the tokens of the first run."""
  name = next(iter(SHAPES))
  made = build.data(experiment(name, 0, 1), home / f"{name}_0")
  token_bytes = np.asarray(made.tokenizer.token_bytes(), np.int64)
  ids = {s: made.tokens.tokens(s).ids for s in ("train", "validation")}
  start = time.perf_counter()
  model = ngrams.KneserNey(ids["train"], len(token_bytes), ORDER)
  speed = len(ids["train"]) / (time.perf_counter() - start)
  found = model.evaluate(ids["validation"], token_bytes)
  grams = {
    tuple(gram)
    for gram in np.lib.stride_tricks.sliding_window_view(ids["train"], ORDER)
  }
  return Row("5-gram", len(grams), [found["bits_per_byte"]], [speed])


def spread(values: Sequence[float]) -> str:
  """Mean, and deviation over seeds where there are several."""
  if len(values) == 1:
    return f"{values[0]:.3f}"
  return f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"


def show(rows: Sequence[Row]) -> None:
  """Prints the table."""
  print("| | parameters | bits a byte | tokens/s |\n|---|---|---|---|")
  for row in rows:
    what = " counts" * (row.name == "5-gram")
    speed = statistics.median(row.speed)
    print(
      f"| {row.name} | {row.size:,}{what} | {spread(row.bits)} | {speed:,.0f} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
  """Trains what is missing, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--folder", required=True, help="where runs are kept")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--steps", type=int, default=300)
  given = parser.parse_args(argv)
  home, seeds = pathlib.Path(given.folder), given.seeds.split(",")
  check_sizes()
  rows = []
  for name in SHAPES:
    found = [measure(name, int(s), given.steps, home) for s in seeds]
    bits, speeds = zip(*found, strict=True)
    rows.append(Row(name, size(name), list(bits), list(speeds)))
  show([*rows, count(home)])
  return 0


if __name__ == "__main__":
  sys.exit(main())
