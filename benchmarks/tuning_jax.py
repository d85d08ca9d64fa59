"""Steps of an experiment, timed: what the sides of llm_jax have in common."""

from collections.abc import Callable
import dataclasses
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp

from benchmarks import tuning
from llm_jax import host, precomputing, state_plan, weights
from llm_jax import model as model_lib
from llm_jax.contracts import Batch
from llm_jax.experiment import DataSettings, Experiment
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.causal import Causal
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule


def shape(given: dict, **settings) -> TransformerConfig:
  """Of the decoder that both sides share."""
  s = given["shape"]
  return TransformerConfig(
    num_layers=s["layers"],
    embed_dim=s["width"],
    mlp_dim=s["mlp"],
    num_heads=s["heads"],
    vocab_size=s["vocab"],
    max_length=given["length"],
    unroll=0,
    dtype="bfloat16" if jax.default_backend() == "gpu" else "float32",
    **settings,
  )


def experiment(given: dict, data: DataSettings, **settings) -> Experiment:
  """One of the shape that both sides share."""
  base = Experiment(
    model=shape(given),
    objective=Causal(),
    data=data,
    optimizer=AdamW(
      peak=1e-4, schedule=Schedule("constant", 0), weight_decay=0.0
    ),
    mesh=mesh_lib.MeshShape(1, 1, 1),
    batch_size=given["batch_size"],
  )
  return dataclasses.replace(base, **settings)


def time_steps(
  experiment: Experiment,
  given: dict,
  steps: int,
  count: Callable[[Batch], dict[str, int]],
  folder: pathlib.Path = pathlib.Path(),
) -> None:
  """Prints what `tuning` reads.

  Args:
    experiment: what to train.
    given: what both sides share.
    steps: timed, after some that are not.
    count: what is counted of a batch.
    folder: where what the reference says is kept.
  """
  host.keep_memory()
  tokenizer = store.load(given["tokenizer"])
  corpus = experiment.data.prepare(tuning.PLAIN)
  tokens = corpus.tokenise(tokenizer, tuning.PLAIN)
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    model = model_lib.of_shape(experiment.model)
    asks = experiment.objective.needs_reference
    if asks and experiment.reference == "once":
      folder.mkdir(exist_ok=True)
      encode, block = tokenizer.encode, (0, 1)
      tokens = precomputing.carry(
        experiment, tokens, encode, model, mesh, folder, block
      )
      asks = False
    plan = state_plan.make(
      experiment, model, mesh, tokenizer.encode, reference=asks
    )
    state = weights.start(experiment, plan, mesh)
    source = tokens.train(experiment.batch_size, 0)
    batches = [source.next() for _ in range(tuning.WARM + steps)]
    for batch in {b["tokens_BT"].shape: b for b in batches}.values():
      plan.step(jax.tree.map(jnp.copy, state), batch)  # each width is compiled
    counts: dict[str, int] = {}
    losses = []
    for i, batch in enumerate(batches):
      if i == tuning.WARM:
        wall, cpu = time.perf_counter(), time.process_time()
      if i >= tuning.WARM:
        for name, number in count(batch).items():
          counts[name] = counts.get(name, 0) + number
      state, metrics = plan.step(state, batch)
      losses.append(metrics["loss"].compute())
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  assert all(map(math.isfinite, losses))
  version = f"jax {jax.__version__}"
  found = {"wall": wall, "cpu": cpu, "losses": losses, "version": version}
  print(json.dumps(counts | found))
