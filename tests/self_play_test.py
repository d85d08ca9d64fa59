"""Rejected completions are the reference's own, and a run knows where it was.

Dimension key: B rows; Q pairs; T positions.
"""

import dataclasses
import json
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import model as model_lib
from llm_jax import self_play, state_plan, weights
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Experiment, SelfPlay, Validation
from llm_jax.generation import completing, decode
from llm_jax.objectives import unreferenced
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.pairwise import completion_logp
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training.optimizers import AdamW
from llm_jax.training.refresh import Refresh
from llm_jax.training.schedules import Schedule
from tests import command, small

STOP = (3,)
ROWS = ("tokens_BT", "target_BT", "mask_BT", "prompt_BT")
SHAPE = dataclasses.replace(small.CONFIG, num_layers=1)
DRAWN = SelfPlay(max_new_tokens=6)


def batch(num_pairs=4, T=12):
  """Pairs of ragged prompts, in rows as a source gives them."""
  r = np.random.default_rng(0)
  B = 2 * num_pairs
  begin_B = np.repeat(r.integers(0, 8, num_pairs), 2)
  size_B = begin_B + r.integers(1, 4, B)
  at_T = np.arange(T)
  ids_BT = r.integers(4, small.DIMS.V, (B, T)).astype(np.int32)
  prompt_BT = at_T < begin_B[:, None]
  ids_BT[1::2] = np.where(prompt_BT[1::2], ids_BT[::2], ids_BT[1::2])
  target_BT = np.where(at_T < size_B[:, None], ids_BT, 0)
  tokens_BT = np.concatenate([np.ones((B, 1), np.int32), target_BT[:, :-1]], 1)
  return {
    "tokens_BT": tokens_BT * (at_T < size_B[:, None]),
    "target_BT": target_BT,
    "mask_BT": (at_T < size_B[:, None]) & ~prompt_BT,
    "prompt_BT": prompt_BT,
    "row_B": np.arange(B, dtype=np.int32),
  }


def wide(shape=SHAPE):
  return model_lib.of_shape(dataclasses.replace(shape, dtype="float64"))


@pytest.fixture(scope="module")
def drawn():
  """(variables -> pairs against them, two models' variables, their key)."""
  key = jax.random.key(5)
  with jax.enable_x64(True):
    both = [small.build(SHAPE, seed)[1] for seed in (0, 1)]
    model = wide()
    make = jax.jit(
      lambda v, b: self_play.against(model, DRAWN, STOP, v, b, key)
    )
    jax.block_until_ready(make(both[0], batch()))
  return make, *both, key


def test_chosen_completions_and_prompts_stay(drawn):
  make, reference, *_ = drawn
  with jax.enable_x64(True):
    found, given = make(reference, batch()), batch()
  for name in ROWS:
    np.testing.assert_array_equal(found[name][::2], given[name][::2])
  prompt_QT = given["prompt_BT"][::2]
  np.testing.assert_array_equal(found["prompt_BT"][1::2], prompt_QT)
  np.testing.assert_array_equal(found["row_B"], given["row_B"])
  assert (found["target_BT"][1::2] != given["target_BT"][1::2]).any()


def test_each_is_drawn_as_its_prompt_alone_would_be(drawn):
  """And a forward says of it what the sampler did."""
  make, reference, policy, key = drawn
  model, N = wide(), DRAWN.max_new_tokens

  @jax.jit
  def alone(prompt_BP, length_B, key_B):
    cache = model.open_cache(reference, 1, prompt_BP.shape[1] + N)
    begun = decode.prefill(
      model.decode, reference, prompt_BP, length_B, cache, key_B
    )
    return decode.extend(
      model.decode, reference, begun, limit=N, sampler=Sampler(), stop_ids=STOP
    )[1]

  with jax.enable_x64(True):
    found, of_policy = make(reference, batch()), make(policy, batch())
    rows = {k: x[::2] for k, x in batch().items()}
    prompt_QT, length_Q = completing.prompts(rows)
    num_same, logp = 0, []
    for q in range(len(length_Q)):
      at, row = slice(q, q + 1), 2 * q + 1
      key_B = jax.random.fold_in(key, q)[None]
      out = alone(prompt_QT[at], length_Q[at], key_B)
      room = prompt_QT.shape[1] - int(length_Q[q]) + 1
      size = min(int(out.length_B[0]), room)
      want = out.tokens_BT[0, :size].tolist()
      of = lambda b, row=row: b["target_BT"][row][b["mask_BT"][row]].tolist()
      assert of(found) == want
      assert float(found["told_drawn_length_B"][row]) == size
      assert bool(found["told_drawn_cut_B"][row]) == (want[-1] not in STOP)
      num_same += of(of_policy) == want
      logp.append(float(out.sampled_logp_BT[0, :size].sum()))
    assert num_same < len(length_Q) / 2  # the mutant: drawn from the policy
    score = jax.jit(lambda b: completion_logp(model.score(reference, b), b))
    got = score(found)[1::2]
    np.testing.assert_allclose(got, logp, rtol=0, atol=1e-10)
    # The mutant: rows that read one place too late.
    mutant = found | {"tokens_BT": jnp.roll(found["tokens_BT"], 1, 1)}
    assert np.abs(score(mutant)[1::2] - np.array(logp)).max() > 1e-2


def test_what_is_drawn_again_is_told_to_be_the_same(drawn):
  make, reference, *_ = drawn
  with jax.enable_x64(True):
    first = make(reference, batch())
    turned = {name: jnp.repeat(first[name][1::2], 2, 0) for name in ROWS}
    again = make(reference, {**batch(), **turned})
  assert np.asarray(again["told_drawn_same_B"]).all()
  assert not np.asarray(first["told_drawn_same_B"]).any()


class Constant:
  """Always the same pairs."""

  def __init__(self, mesh):
    self._batch = mesh_lib.place(batch(8), mesh)

  def next(self, state):
    del state
    return self._batch


def tiny(*mesh):
  return Experiment(
    model=dataclasses.replace(SHAPE, dtype="float64"),
    objective=DPO(beta=0.5),
    tokenizer=Bytes(),
    optimizer=AdamW(peak=0.1, schedule=Schedule("constant", warmup=0)),
    refresh=Refresh(every=2),
    self_play=SelfPlay(max_new_tokens=5, sampler=Sampler(temperature=0.0)),
    mesh=mesh_lib.MeshShape(*mesh),
    batch_size=16,
    steps=3,
  )


def base(experiment, plan, mesh):
  _, variables = small.build(SHAPE)
  return jax.tree.map(
    lambda x, like: jax.device_put(np.asarray(x), like.sharding),
    variables["params"],
    plan.base,
  )


def begin(experiment, mesh):
  """(plan, state before the first step, source)."""
  model = model_lib.of_shape(experiment.model)
  with mock.patch.object(weights, "_base", base):
    plan = state_plan.make(experiment, model, mesh, reference=True)
    state = weights.start(experiment, plan, mesh)
  its = experiment.self_play
  return plan, state, self_play.Opponent(Constant(mesh), its, model, STOP)


def test_an_iteration_plays_against_the_policy_before_it():
  experiment = tiny(1, 1, 1)
  mesh = mesh_lib.make(experiment.mesh)
  with jax.enable_x64(True), jax.set_mesh(mesh):
    plan, state, source = begin(experiment, mesh)
    drawn, of_policy = [], []
    for _ in range(3):
      found = source.next(state)
      drawn.append(np.asarray(found["target_BT"]))
      # What the policy of now would say.
      its = dataclasses.replace(state, reference=state.trainable["policy"])
      of_policy.append(np.asarray(source.next(its)["target_BT"]))
      state, metrics = plan.step(state, found)
  # Within an iteration it stays, whatever the policy says.
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert (of_policy[1] != drawn[1]).any()
  # Then it is the policy of then, and no more what it was.
  np.testing.assert_array_equal(drawn[2], of_policy[2])
  assert (drawn[2] != drawn[1]).any()
  for name in ("length", "cut", "same"):
    want = np.asarray(found[f"told_drawn_{name}_B"]).mean()
    np.testing.assert_allclose(metrics[f"drawn_{name}"].compute(), want, 1e-12)
  eight = tiny(8, 1, 1)
  mesh = mesh_lib.make(eight.mesh)
  with jax.enable_x64(True), jax.set_mesh(mesh):
    _, state, source = begin(eight, mesh)
    compiled = source._draw.lower(state, Constant(mesh).next(state)).compile()
    found = compiled(state, Constant(mesh).next(state))
  np.testing.assert_array_equal(found["target_BT"], drawn[0])
  rows = found["target_BT"].sharding.shard_shape(drawn[0].shape)[0]
  assert rows == len(drawn[0]) // 8
  # Rows, and what is remembered of them, stay where they are: devices only ask
  # each other whether all have come to an end.
  moves = ("all-to-all(", "all-gather(", "collective-permute(")
  assert not any(m in compiled.as_text() for m in moves)
  assert compiled.as_text().count("all-reduce(") == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment of answers alone, folder of its run, of two iterations)."""
  home = tmp_path_factory.mktemp("self_play")
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    data=Preferences(
      sources=(command.answers(home),),
      rows="answers",
      length=32,
      validation=0.3,
      cache=str(home / "cache"),
    ),
    objective=DPO(beta=0.5),
    refresh=Refresh(every=3),
    self_play=SelfPlay(max_new_tokens=4),
    optimizer=AdamW(peak=1e-2, schedule=Schedule("constant", warmup=0)),
    steps=6,
    batch_size=8,
    microbatches=2,
    mesh=mesh_lib.MeshShape(2, 1, 1),
    checkpoints=Checkpoints(every=4),
    validation=Validation(every=4, batches=1, questions=0),
    samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
  )
  command.train(experiment, home / "whole")
  return experiment, home / "whole"


def test_a_run_tells_what_it_drew(run):
  found = sameness.content(run[1])["rows"]
  rows = [r for r in found if r["split"] == "train"]
  assert [r["step"] for r in rows] == list(range(1, 7))
  for row in rows:
    assert 0 < row["drawn_length"] <= 4
    assert 0 <= row["drawn_same"] <= row["drawn_cut"] <= 1
  # As an iteration begins the policy is its own opponent.
  begins = [abs(r["margin"]) < 1e-4 for r in rows]
  assert begins == [True, False, False] * 2
  for row in rows[::3]:
    np.testing.assert_allclose(row["loss"], np.log(2), rtol=1e-5)
  (validated, last) = [r for r in found if r["split"] == "validation"]
  assert validated["logp_rejected"] == 0 > validated["logp_chosen"]
  # At the end against itself again.
  assert abs(validated["margin"]) > 1e-2 > 1e-4 > abs(last["margin"])


def test_evaluate_measures_from_where_it_began(run, tmp_path):
  """And not from where the reference, the mutant, is at the last step."""
  experiment, whole = run
  folder = shutil.copytree(whole, tmp_path / "run")
  said = command.call("evaluate", f"--workdir={folder}", experiment=experiment)
  assert said.code == 0, said.err
  found = json.loads((folder / "evaluation.json").read_text())
  measures = found["results"]["model"]
  assert measures["logp_rejected"] == 0
  # Adam's first steps are of the learning rate's size.
  assert abs(measures["margin"]) > 1e-2


def test_stopped_within_an_iteration_it_goes_on_the_same(run, tmp_path):
  """After step 4 of iterations of three; the mutant begins a new one."""
  experiment, whole = run
  wanted = sameness.content(whole)
  found = {}
  for name in ("again", "mutant"):
    shutil.copytree(whole, tmp_path / name)
    shutil.rmtree(tmp_path / name / "checkpoints/00000006")
    assert (tmp_path / name / "checkpoints/00000004").is_dir()
    resume = weights.resume if name == "again" else anew
    with mock.patch.object(weights, "resume", resume):
      found[name] = command.train(experiment, tmp_path / name)
  assert sameness.differences(wanted, found["again"]) == []
  assert sameness.differences(wanted, found["mutant"])


_resume = weights.resume


def anew(*args):
  """Takes the policy for the reference, as if an iteration began."""
  step, state, position = _resume(*args)
  policy = jax.tree.map(jnp.copy, state.trainable["policy"])
  return step, dataclasses.replace(state, reference=policy), position


PLAY = "--self_play.max_new_tokens=4"
NEVER, GIVEN = Refresh(), SelfPlay()


@pytest.mark.parametrize(
  ("change", "error"),
  [
    (
      {"objective": unreferenced.SimPO(), "refresh": NEVER},
      f"{PLAY}: SimPO asks no reference",
    ),
    (
      {"reference": "once", "refresh": NEVER},
      f"{PLAY}: cannot be with --reference=once",
    ),
    (
      {"objective": KTO(), "rows": "labels", "refresh": NEVER},
      f"{PLAY}: KTO reads no pairs",
    ),
    (
      {"rows": "pairs", "packing": "best_fit"},
      f"{PLAY}: needs --data.packing=one",
    ),
    (
      {"self_play": GIVEN},
      "--data.rows=answers: DPO reads pairs, not answers",
    ),
    (
      {"self_play": GIVEN, "rows": "pairs", "reference": "once"},
      "--refresh.every=3: cannot be with --reference=once",
    ),
    (
      {
        "self_play": GIVEN,
        "rows": "pairs",
        "objective": unreferenced.SimPO(),
      },
      "--refresh.every=3: SimPO asks no reference",
    ),
  ],
)
def test_what_cannot_be_played_is_refused(run, change, error, tmp_path):
  experiment, _ = run
  of_data = {k: v for k, v in change.items() if k in ("rows", "packing")}
  data = dataclasses.replace(experiment.data, **of_data)
  change = {k: v for k, v in change.items() if k not in of_data}
  experiment = dataclasses.replace(experiment, data=data, **change)
  said = command.refused(
    tmp_path, "train", f"--workdir={tmp_path / 'run'}", experiment=experiment
  )
  assert error in said
