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
import numpy as np

from benchmarks import tuning, tuning_jax
from llm_jax import axes, host, on_policy, reinforcing, weights
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


def reward(model: model_lib.Model, length: int) -> on_policy.Reward:
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
    tokens_BT = np.zeros((len(ids), length), np.int32)
    for row, its in zip(tokens_BT, ids, strict=True):
      row[: len(its)] = its
    last_B = np.array([len(its) - 1 for its in ids])
    found = np.asarray(scores(variables, tokens_BT, last_B))
    return [Verdict((float(x),)) for x in found]

  return on_policy.Reward(lambda ids: " ".join(map(str, ids)), judged)


def main() -> None:
  """Runs a few updates and times the later ones."""
  host.keep_memory()
  given = json.loads(pathlib.Path(sys.argv[1]).read_text())
  its, updates = experiment(given, sys.argv[2]), int(sys.argv[3])
  model = model_lib.of_shape(its.model)
  mesh = mesh_lib.make(its.mesh)
  with jax.set_mesh(mesh):
    plan = weights.plan(its, model, mesh, reference=True)
    state = weights.start(its, plan, mesh)
    source = on_policy.OnPolicy(
      its.rollouts,
      its.shaping,
      its.objective,
      [
        # The first id is what begins a document.
        on_policy.Prompt((("user", " ".join(map(str, ids)) + " "),), ids[1:])
        for ids in given["prompts"]
      ],
      reinforcing.functions(its, model, ()),
      reward(model, given["length"]),
      (3, 0),
      seed=0,
      batch_size=its.batch_size,
      group=1,
      mesh=mesh,
    )
    tokens, entropies = 0, []
    for i in range((tuning.WARM + updates) * source.per_update):
      if i == tuning.WARM * source.per_update:
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = 0
      batch = source.next(state)
      if not i % source.per_update:
        tokens += len(given["prompts"]) * given["new"]
      state, metrics = plan.step(state, batch)
      entropies.append(metrics["entropy"].compute())
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  assert np.isfinite(entropies).all()
  found = {"tokens": tokens, "updates": updates, "wall": wall, "cpu": cpu}
  found |= {"losses": entropies, "version": f"jax {jax.__version__}"}
  print(json.dumps(found))


if __name__ == "__main__":
  main()
