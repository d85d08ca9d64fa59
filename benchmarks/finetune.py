"""What instruction tuning gains and what it forgets, over seeds.

From a run of `experiments.pretrain_tiny_stdlib`, on the embedded questions:

  full       every weight, on all four tasks
  lora       under a 20th of the weights, on all four tasks
  TASK only  every weight, on one task; the same steps and settings as `full`

  python -m benchmarks.finetune --base=runs/pretrain_tiny_stdlib --folder=PATH

Each run is trained and evaluated by the command line's verbs and stays in
--folder: what is there already is not done again, so that processes may share
the seeds (--seeds=1) and a last one prints the table. Completion loss, exact
match and text loss are of held-out modules. Exit code 1 where a claim below
does not hold.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
import statistics
import sys
from typing import Any

from experiments import pretrain_tiny_stdlib, sft_tiny_stdlib
from llm_jax import cli, state_plan
from llm_jax.data.instructions import Instructions
from llm_jax.data.stdlib_tasks import StdlibTasks, TASKS
from llm_jax.experiment import Evaluation, Experiment
from llm_jax.peft.lora import LoRA
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

ALL = Instructions(sources=(StdlibTasks(),), length=128, too_long="drop")
TEXT = Evaluation("text", pretrain_tiny_stdlib.EXPERIMENT.data)
COLUMNS = ("completion loss", "exact match", "text loss", "forgotten")


def experiment(kind: str, base: str, seed: int, steps: int) -> Experiment:
  """What one run does: "full", "lora", or the name of one task."""
  quick = dataclasses.replace(
    sft_tiny_stdlib.EXPERIMENT,
    data=ALL,
    optimizer=AdamW(
      peak=3e-3 if kind == "lora" else 1e-3,
      schedule=Schedule("cosine", warmup=20),
      weight_decay=0.0 if kind == "lora" else 0.1,
    ),
    init_from=base,
    seed=seed,
    steps=steps,
    batch_size=16,
    checkpoints=dataclasses.replace(
      sft_tiny_stdlib.EXPERIMENT.checkpoints, every=0, keep=1
    ),
    validation=dataclasses.replace(
      sft_tiny_stdlib.EXPERIMENT.validation,
      every=0,
      baselines=False,
      questions=0 if kind in TASKS else 400,
    ),
    samples=dataclasses.replace(sft_tiny_stdlib.EXPERIMENT.samples, every=0),
    evaluations=(TEXT,),
  )
  if kind == "lora":
    peft = LoRA(rank=7, alpha=28.0, special_tokens=12)
    return dataclasses.replace(quick, peft=peft)
  if kind in TASKS:
    one = dataclasses.replace(ALL, sources=(StdlibTasks((kind,)),))
    every = Evaluation("every task", ALL, questions=0)
    return dataclasses.replace(quick, data=one, evaluations=(TEXT, every))
  return quick


def measure(
  kind: str, base: str, seed: int, steps: int, home: pathlib.Path
) -> dict[str, Any]:
  """Trains and evaluates one run, if it is not there; its evaluation.json."""
  folder = home / f"{kind}_{seed}"
  path = folder / "evaluation.json"
  if not path.exists():
    made = experiment(kind, base, seed, steps)
    name, where = f"finetune_{kind}", f"--workdir={folder}"
    evaluate = ["evaluate", where, "--batch_size=32"]
    if kind == "full" and seed == 0:  # the base is measured once
      evaluate.append(f"--against={base}")
    for flags in (["train", where], evaluate):
      if code := cli.main(made, [name, *flags], name):
        raise SystemExit(code)
  return json.loads(path.read_text(encoding="utf-8"))


def figures(measured: dict[str, dict[str, float]]) -> list[float]:
  """A row of the table, without what was forgotten."""
  tasks = measured.get("every task", measured["data"])
  exact = tasks.get("exact_match", math.nan)
  return [tasks["loss"], exact, measured["text"]["loss"]]


def trained_share(kind: str, base: str) -> float:
  """Share of the base's weights that train."""
  import jax

  from llm_jax import model, trees
  from llm_jax.sharding import mesh

  made = experiment(kind, base, 0, 1)
  decoder = model.of_shape(model.expected_shape(made))
  found = state_plan.make(made, decoder, mesh.make(made.mesh))
  whole = sum(x.size for x in jax.tree.leaves(found.base))
  return trees.size(found.abstract.trainable) / whole


def spread(values: Sequence[float]) -> str:
  """Mean and standard deviation over seeds."""
  if math.isnan(values[0]):
    return ""
  deviation = statistics.stdev(values) if len(values) > 1 else 0.0
  return f"{statistics.mean(values):.3f} +- {deviation:.3f}"


def claims(rows: dict[str, list[list[float]]], share: float) -> dict[str, bool]:
  """What instruction tuning must show, each by the means over seeds."""
  mean = {
    kind: [statistics.mean(column) for column in zip(*found, strict=True)]
    for kind, found in rows.items()
  }
  base, full, lora = mean["base"], mean["full"], mean["lora"]
  ratio = (base[0] - lora[0]) / (base[0] - full[0])
  single = statistics.mean(mean[task][3] for task in TASKS)
  return {
    f"completion loss falls by {base[0] - full[0]:.2f} nats, over 1": (
      base[0] - full[0] > 1
    ),
    f"exact match rises from {base[1]:.1%} to {full[1]:.1%}": full[1] > base[1],
    f"LoRA reaches {ratio:.1%} of that fall, at least 90%": ratio >= 0.9,
    f"LoRA trains {share:.1%} of the weights, under 5%": share < 0.05,
    f"all tasks together forget {full[3]:.3f} nats of the text, less than one"
    f" alone, {single:.3f} in the mean": full[3] < single,
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing, prints the table and what was claimed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--base", required=True, help="run folder to start from")
  parser.add_argument("--folder", required=True, help="where runs are kept")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--kinds", default=",".join(("full", "lora", *TASKS)))
  given = parser.parse_args(argv)
  home = pathlib.Path(given.folder)
  kinds, seeds = given.kinds.split(","), given.seeds.split(",")
  measured = {
    (kind, seed): measure(kind, given.base, seed, given.steps, home)
    for seed in map(int, seeds)
    for kind in kinds
  }
  if ("full", 0) not in measured:
    return 0  # the base stands there
  start = figures(measured["full", 0]["against"]["datasets"])
  rows: dict[str, list[list[float]]] = {"base": [[*start, 0.0]]}
  for (kind, _), found in measured.items():
    row = figures(found["datasets"])
    rows.setdefault(kind, []).append([*row, row[2] - start[2]])
  shares = {k: trained_share(k, given.base) for k in kinds}
  print("| " + " | ".join(("", *COLUMNS, "trained")) + " |")
  print("|---" * (len(COLUMNS) + 2) + "|")
  for kind, measured in rows.items():
    name = f"{kind} only" if kind in TASKS else kind
    cells = [spread(column) for column in zip(*measured, strict=True)]
    cells.append(f"{shares[kind]:.1%}" if kind in shares else "")
    print("| " + " | ".join((name, *cells)) + " |")
  if {"full", "lora", *TASKS} - set(kinds):
    return 0
  held = claims(rows, shares["lora"])
  for claim, holds in held.items():
    print(f"{'holds' if holds else 'DOES NOT HOLD'}: {claim}")
  return 0 if all(held.values()) else 1


if __name__ == "__main__":
  sys.exit(main())
