"""What a policy draws is what it scores, and a run knows where it was."""

import dataclasses
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import model as model_lib
from llm_jax import reinforcing, state_plan, weights
from llm_jax.checkpoints.store import Store
from llm_jax.experiment import Experiment
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.endpoint import Endpoint
from llm_jax.judges.function import Function
from llm_jax.judges.rubric import Rubric
from llm_jax.judges.rules import Length
from llm_jax.objectives import group
from llm_jax.objectives.ppo import PPO
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers
from llm_jax.tokenizers.bytes import Bytes, ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from tests import command, drawing, small

STOP, P, N, B = (3, 5), 7, 6, 8
SHAPE = dataclasses.replace(small.CONFIG, num_layers=1, outputs=1)
SAMPLER = Sampler(temperature=0.7)


def settings(**changes):
  return Experiment(
    model=dataclasses.replace(SHAPE, dtype="float64"),
    objective=PPO(critic="shared"),
    tokenizer=Bytes(),
    rollouts=Rollouts(batch=B, max_new_tokens=N, sampler=SAMPLER),
    **changes,
  )


def prompts():
  """Ragged ones, with something else in the places before them."""
  r = np.random.default_rng(0)
  return {
    "prompt_BP": r.integers(4, small.DIMS.V, (B, P)).astype(np.int32),
    "length_B": r.integers(1, P + 1, B).astype(np.int32),
  }


@pytest.fixture(scope="module")
def drawn():
  """What is drawn and how it is scored; and the mutant's temperature."""
  with jax.enable_x64(True):
    _, variables = small.build(SHAPE)
    roles = {"policy": variables, "reference": variables}
    model = model_lib.of_shape(dataclasses.replace(SHAPE, dtype="float64"))
    its = reinforcing.functions(settings(), model, STOP)
    batch = its.draw(roles, prompts(), jax.random.key(0))
    with mock.patch.object(Experiment, "scored_at", 1.0):
      hot = reinforcing.functions(settings(), model, STOP)
    found = {**batch, **its.score(roles, batch)}
    return jax.device_get((found, hot.score(roles, batch)))


def test_a_forward_says_of_it_what_the_sampler_did(drawn):
  found, mutant = drawn
  mask = found["mask_BT"]
  assert mask.any(1).all() and 0 < mask.sum() < mask.size
  said = found["sampled_logp_BT"][mask]
  np.testing.assert_allclose(found["old_logp_BT"][mask], said, atol=1e-10)
  # The mutant: drawn at 0.7, scored at 1.
  assert np.abs(mutant["old_logp_BT"][mask] - said).max() > 1e-2


def test_completions_end_where_they_end(drawn):
  found, _ = drawn
  lengths = set()
  for row in range(B):
    ids = found["target_BT"][row][found["mask_BT"][row]].tolist()
    lengths.add(len(ids))
    assert found["ended_B"][row] == (ids[-1] in STOP)
    assert not any(i in STOP for i in ids[:-1])
    assert len(ids) == N or ids[-1] in STOP
  assert len(lengths) > 2


def test_prompts_stand_before_completions(drawn):
  found, _ = drawn
  given = prompts()
  for row, n in enumerate(given["length_B"]):
    begin = P - n
    asked = given["prompt_BP"][row, begin:]
    assert found["tokens_BT"][row, begin:P].tolist() == asked.tolist()
    assert found["mask_BT"][row].argmax() == P - 1
    assert found["position_BT"][row, begin:P].tolist() == list(range(n))
    assert found["segment_BT"][row, :begin].sum() == 0
    assert (found["segment_BT"][row, begin:P] == 1).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment, folder of its run of two updates)."""
  home = tmp_path_factory.mktemp("on_policy")
  experiment = drawing.experiment(home)
  command.train(experiment, home / "whole")
  return experiment, home / "whole"


def test_each_update_begins_where_it_was_drawn_and_clips_later(run):
  rows = sameness.content(run[1])["rows"]
  steps = {r["step"]: r for r in rows if r["split"] == "train"}
  assert list(steps) == list(range(1, 9))
  for first in (1, 5):
    assert steps[first]["ratio"] == pytest.approx(1, abs=1e-5)
    assert abs(steps[first]["kl_old"]) < 1e-5
    assert steps[first]["clipped"] == 0
  others = [steps[i] for i in (2, 3, 4, 6, 7, 8)]
  assert max(abs(r["ratio"] - 1) for r in others) > 1e-3
  assert max(r["clipped"] for r in others) > 0
  assert max(r["mismatch"] for r in steps.values()) < 1e-4
  # Four minibatches read the same completions twice; the next update its own.
  score = [steps[i]["score"] for i in range(1, 9)]
  assert score[0] + score[1] == pytest.approx(score[2] + score[3])
  assert score[0] + score[1] != pytest.approx(score[4] + score[5], abs=1e-3)
  assert any(abs(x - round(x)) > 1e-3 for x in score)  # fractions
  # The policy is the reference as it begins, and never again.
  assert abs(steps[1]["kl"]) < 1e-5 and steps[5]["kl"] > 1e-3
  # Beta is moved between updates by the KL of the last.
  assert steps[4]["beta"] == pytest.approx(0.05)
  assert steps[5]["beta"] == pytest.approx(0.05 * (1 - 0.2 * 16 / 100))


def test_validation_tells_how_held_out_prompts_are_answered(run):
  rows = sameness.content(run[1])["rows"]
  (found,) = [r for r in rows if r["split"] == "validation"]
  assert found["loss"] == -found["score"]
  assert 0 < found["length"] <= 8 and 0 <= found["ended"] <= 1


def test_a_run_goes_on_with_its_judge_alone(run, tmp_path):
  """Wherever its file is, and however many threads it has."""
  experiment, whole = run
  folder = shutil.copytree(whole, tmp_path / "run")
  file = tmp_path / "moved.py"

  def with_body(body):
    file.write_text(body)
    judge = Function(f"{file}:fraction", concurrency=1)
    return dataclasses.replace(experiment, judge=judge)

  command.train(with_body(drawing.REWARD), folder)
  before = command.snapshot(folder)
  for other in (
    with_body(drawing.REWARD.replace("7", "8")),
    dataclasses.replace(experiment, judge=Length(most=4)),
  ):
    said = refused(other, folder)
    assert "--judge: not the one that this run began with (" in said
    assert "go on with this one by --judge_may_change" in said
    assert command.snapshot(folder) == before


def begins(experiment):
  """The state before the first step."""
  mesh = mesh_lib.make(experiment.mesh)
  tokenizer = ByteTokenizer()
  model = model_lib.make(experiment, tokenizer)
  with jax.set_mesh(mesh):
    plan = state_plan.make(experiment, model, mesh, reference=True)
    return weights.start(experiment, plan, mesh)


def test_a_critic_begins_as_the_reward_model_that_is_named(run):
  experiment, folder = run
  there = dataclasses.replace(
    experiment, init_from=None, value_from=str(folder), average=0.9
  )
  state = begins(there)
  plain = begins(dataclasses.replace(there, value_from=None))
  (_, kept) = Store(folder / "checkpoints").restore_part(
    {"trainable": {"policy": plain.trainable["policy"]}}
  )
  its = state.trainable["value"]["params"]
  jax.tree.map(
    np.testing.assert_array_equal, its, kept["trainable"]["policy"]["params"]
  )
  jax.tree.map(
    np.testing.assert_array_equal, its, state.average["value"]["params"]
  )
  # Without a name it is the policy as it begins, beside the policy itself.
  own, policy = (
    plain.trainable[role]["params"] for role in ("value", "policy")
  )
  jax.tree.map(np.testing.assert_array_equal, own, policy)
  head = lambda params: np.asarray(params["output_head"])
  assert (head(its) != head(own)).any()


def test_a_critic_and_its_policy_part_ways(run):
  """Both move, and neither into the other."""
  experiment, folder = run
  plain = begins(experiment)
  (_, kept) = Store(folder / "checkpoints").restore_part(
    {"trainable": plain.trainable}
  )
  of = lambda role: kept["trainable"][role]["params"]["embedding"]
  start = plain.trainable["policy"]["params"]["embedding"]
  for role in ("policy", "value"):
    assert (np.asarray(of(role)) != np.asarray(start)).any()
  assert (np.asarray(of("policy")) != np.asarray(of("value"))).any()


def test_a_model_that_no_critic_can_begin_as_is_told(run, tmp_path):
  experiment, whole = run
  given = f"--value_from={whole}"
  shared = dataclasses.replace(experiment, objective=PPO(critic="shared"))
  said = refused(shared, tmp_path / "run", given)
  assert f"{given}: PPO has no critic of its own" in said
  said = refused(experiment, tmp_path / "run", given, "--model.norm=layer")
  assert "--model.norm=layer: the weights of --value_from=" in said
  other = shutil.copytree(whole, tmp_path / "other")
  shutil.rmtree(other / "tokenizer")
  pieces = SentencePiece(vocab_size=300)
  tokenizers.obtain(pieces, lambda: iter(command.LINES), other / "tokenizer")
  said = refused(experiment, tmp_path / "run", f"--value_from={other}")
  assert f"{other}: its tokenizer is not that of the policy" in said
  assert not (tmp_path / "run").exists()


def refused(experiment, folder, *flags):
  return command.call(
    "train", f"--workdir={folder}", *flags, experiment=experiment
  ).error


def test_what_is_no_reward_is_told(run, tmp_path):
  experiment, _ = run
  for body, said in (
    ("raise ValueError('no idea')", "raised ValueError: no idea"),
    ("return float('nan')", "gave nan"),
    ("return 'good'", "gave 'good', no number"),
  ):
    file = tmp_path / "bad.py"
    file.write_text(f"def f(prompt, completion, reference):\n  {body}\n")
    judge = Function(f"{file}:f")
    bad = dataclasses.replace(experiment, judge=judge)
    assert said in refused(bad, tmp_path / "run")


def test_settings_that_cannot_be_are_told(run, tmp_path):
  experiment, _ = run
  for flag, said in (
    ("--rollouts.batch=20", "not divisible by --batch_size=8"),
    ("--rollouts.max_prompt=30", "longer than --model.max_length=32"),
    ("--rollouts.max_prompt=2", "there are no others"),
    ("--model.outputs=0", "PPO's critic needs 1"),
    ("--rollouts.sampler.temperature=0", "must be more than 0"),
    ("--value_from=nowhere", "--value_from=nowhere: holds no trained run"),
  ):
    assert said in refused(experiment, tmp_path / "run", flag)
  alone = dataclasses.replace(experiment, objective=group.grpo(2))
  said = refused(alone, tmp_path / "run", "--objective.completions=1")
  assert "--objective.completions=1: a score has no others" in said
  grouped = dataclasses.replace(experiment, objective=group.grpo(3))
  said = refused(grouped, tmp_path / "run")
  assert "not divisible by --objective.completions=3" in said
  for judge in (Rubric(), Endpoint(model="m")):
    ordered = dataclasses.replace(experiment, judge=judge)
    said = refused(ordered, tmp_path / "run")
    assert f"--judge ({type(judge).__name__}): says which completion" in said
  said = refused(experiment, tmp_path / "run", "--rollouts.drawings=2")
  assert "--rollouts.drawings=2: PPO draws one completion of a prompt" in said
  said = refused(experiment, tmp_path / "run", "--shaping.overlong=9")
  assert "--shaping.overlong=9: more than --rollouts.max_new_tokens=8" in said
