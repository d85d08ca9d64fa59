"""Updates of PPO with llm_jax. Prints a JSON object.

Arguments: the file that `ppo` prepares, a name and how it ends, updates.
"""

from collections.abc import Sequence
import json
import pathlib
import sys
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from benchmarks import rollouts_jax_side, tuning_jax
from llm_jax import (
  asking,
  axes,
  host,
  on_policy,
  reinforcing,
  state_plan,
)
from llm_jax import model as model_lib
from llm_jax.contracts import Question, Verdict
from llm_jax.experiment import Experiment
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

SHARED = ", shared"  # after a name: the critic is on the policy's trunk


def experiment(given: dict[str, Any], name: str) -> Experiment:
  """With the settings of both sides."""
  rows = len(given["prompts"])
  return Experiment(
    model=tuning_jax.shape(given, norm_eps=1e-6, outputs=1),
    objective=PPO(critic="shared" if name.endswith(SHARED) else "own"),
    optimizer=AdamW(
      peak=3e-6, schedule=Schedule("constant", 0), weight_decay=0.0
    ),
    rollouts=Rollouts(
      batch=rows,
      epochs=given["epochs"],
      max_new_tokens=given["new"],
      sampler=Sampler(temperature=given["temperature"]),
    ),
    shaping=Shaping(missing_eos="keep"),
    mesh=mesh_lib.MeshShape(1, 1, 1),
    batch_size=rows // given["parts"],
  )


def reward(model: model_lib.Model, length: int, rows: int) -> on_policy.Reward:
  """What a model of the policy's size says of the last token."""
  variables = jax.jit(lambda key: axes.unbox(model.init(key)))(
    jax.random.key(1)
  )

  @jax.jit
  def scores(variables: Any, tokens_BT: Any, last_B: Any) -> jax.Array:
    rows = {"tokens_BT": tokens_BT, "target_BT": tokens_BT}
    rows["asked_BT"] = tokens_BT < 0  # no log-probabilities
    output_BTO = model.score(variables, rows).output_BTO
    return output_BTO[np.arange(len(tokens_BT)), last_B, 0]

  def judged(asked: Sequence[Question]) -> list[Verdict]:
    texts = [q.messages[0][1] + q.completions[0] for q in asked]
    ids = [list(map(int, text.split())) for text in texts]
    out = np.zeros(len(ids))
    by_width: dict[int, list[int]] = {}  # as `judging` does it
    for i, its in enumerate(ids):
      width = min(asking.width(len(its)), length)
      by_width.setdefault(width, []).append(i)
    for width, alike in by_width.items():
      for at in range(0, len(alike), rows):
        here = alike[at : at + rows]
        tokens_BT = np.zeros((rows, width), np.int32)
        for row, i in zip(tokens_BT, here, strict=False):
          row[: len(ids[i])] = ids[i]
        last_B = np.zeros(rows, int)
        last_B[: len(here)] = [len(ids[i]) - 1 for i in here]
        found = np.asarray(scores(variables, tokens_BT, last_B))
        out[here] = found[: len(here)]
    return [Verdict((x,)) for x in out.tolist()]

  return on_policy.Reward(lambda ids: " ".join(map(str, ids)), judged)


def make_source(
  its: Experiment, given: dict[str, Any], model: model_lib.Model, mesh: Mesh
) -> on_policy.OnPolicy:
  """Of minibatches of what the policy draws."""
  stop = () if given["stop"] is None else (given["stop"],)
  return on_policy.OnPolicy(
    its.rollouts,
    its.shaping,
    its.objective,
    [
      # The first id is what begins a document.
      on_policy.Prompt((("user", " ".join(map(str, ids)) + " "),), ids[1:])
      for ids in given["prompts"]
    ],
    reinforcing.functions(its, model, stop),
    reward(model, given["length"], its.batch_size),
    (3, 0),
    seed=0,
    batch_size=its.batch_size,
    group=1,
    mesh=mesh,
  )


def main() -> None:
  """Runs a few updates twice and times the second time."""
  host.keep_memory()
  given = json.loads(pathlib.Path(sys.argv[1]).read_text())
  its, updates = experiment(given, sys.argv[2]), int(sys.argv[3])
  model = model_lib.of_shape(its.model)
  mesh = mesh_lib.make(its.mesh)
  with jax.set_mesh(mesh):
    plan = state_plan.make(its, model, mesh, reference=True)
    source = make_source(its, given, model, mesh)
    begin = source.get_state()
    for _ in range(2):  # all is compiled in the first
      state = plan.init(jax.random.key(0), rollouts_jax_side.params(given))
      source.set_state(begin)
      lengths, entropies = [], []
      wall, cpu = time.perf_counter(), time.process_time()
      for i in range(updates * source.per_update):
        batch = source.next(state)
        if not i % source.per_update:
          lengths.append(source.get_state()["rows"]["length_B"])
        state, metrics = plan.step(state, batch)
        entropies.append(metrics["entropy"].compute())
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  assert np.isfinite(entropies).all()
  length_N = np.concatenate(lengths)
  found = {"tokens": int(length_N.sum()), "length": float(length_N.mean())}
  found |= {"updates": updates, "wall": wall, "cpu": cpu}
  found |= {"losses": entropies, "version": f"jax {jax.__version__}"}
  print(json.dumps(found))


if __name__ == "__main__":
  main()
