"""Reward models leave as they are used, and come back."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import importing, judging, normalising, state_plan, weights
from llm_jax import model as model_lib
from llm_jax.contracts import Question
from llm_jax.data import chat
from llm_jax.data.conversation import Message
from llm_jax.evaluation.standard import Line
from llm_jax.experiment import Experiment
from llm_jax.interop import families
from llm_jax.interop.folder import Folder
from llm_jax.judges.reward import RewardModel
from llm_jax.objectives.ppo import PPO
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store
from tests import command, normalising_test
from tests.interop import families_test, heads_test, tiny

ASKED = (("7?", "hhhhhh"), ("3?", "3-3"))
RANKING = normalising_test.EXPERIMENTS["ranking"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("rewards")
  rows = map(json.dumps, normalising_test.ROWS)
  command.text_file(folder, "rows.jsonl", rows)
  said = normalising_test.train(folder, "ranking")
  assert said.code == 0, said.err
  said = command.call(
    "export",
    f"--workdir={folder / 'ranking'}",
    f"--to={folder / 'out'}",
    experiment=RANKING,
  )
  assert said.code == 0, said.err
  (folder / "said.txt").write_text(said.err)
  return folder


def judged(run, asked=ASKED, **how):
  experiment = dataclasses.replace(
    RANKING, judge=RewardModel(run=str(run), **how)
  )
  mesh = mesh_lib.make(experiment.mesh)
  judge, _ = judging.make(experiment, run, None, mesh)
  asked = [Question((("user", p),), (c,)) for p, c in asked]
  return np.array([v.scores[0] for v in judge(asked)])


def test_a_reward_model_is_written_with_its_gain(home):
  """And its bias is told, as Llama's has none."""
  folder = Folder(home / "out", "--init_from=hf:out")
  assert folder.architecture == "LlamaForSequenceClassification"
  assert folder.config["problem_type"] == "regression"
  assert families.settings(folder)["outputs"] == 1
  line = json.loads((home / "ranking/reward.json").read_text())
  assert line["gain"] != 1
  card = (home / "out/README.md").read_text()
  assert f"to be added to the score: {line['bias']:,}" in card
  assert "apply_chat_template" in card
  assert f"plus {line['bias']:.6g}" in (home / "said.txt").read_text()


@pytest.mark.parametrize("bias", [True, False])
def test_gain_and_bias_are_those_of_the_weights(bias):
  r, line = np.random.default_rng(0), Line(2.5, -0.75)
  x_BD = r.normal(size=(5, 4))
  params = {"output_head": r.normal(size=(4, 1)), "embedding": 1}
  if bias:
    params["output_bias"] = r.normal(size=1)
  said = lambda its: x_BD @ its["output_head"] + its.get("output_bias", 0)
  moved, left = normalising.folded(params, line)
  np.testing.assert_allclose(said(moved) + left, line(said(params)))
  assert (left == 0) == bias and moved["embedding"] == 1


def test_a_folder_judges_where_a_conversation_ends(home):
  """What ends it is read, too; the run's own judge reads what came before."""
  shape, params = families_test.read(home / "out", "float32")
  tokenizer = store.load(home / "ranking/tokenizer")
  line = json.loads((home / "ranking/reward.json").read_text())
  last, before = [], []
  for prompt, completion in ASKED:
    said = Message("user", prompt), Message("assistant", completion)
    ids = [tokenizer.start_id, *chat.render(said, tokenizer).ids]
    tokens_BT = jnp.asarray([ids])
    batch = {"tokens_BT": tokens_BT, "target_BT": tokens_BT}
    output = heads_test.compiled(shape)(params, batch)
    last.append(output[0, -1, 0])
    before.append(output[0, -2, 0])
  np.testing.assert_allclose(judged(f"hf:{home / 'out'}"), last, atol=1e-5)
  ours = judged(home / "ranking")
  np.testing.assert_allclose(ours, np.array(before) + line["bias"], atol=1e-5)
  assert np.abs(np.array(last) - before).min() > 1e-4


def test_what_is_no_reward_model_does_not_judge(home, tmp_path):
  plain = tiny.whole(tmp_path / "plain", dtype=np.float32)
  with pytest.raises(ValueError, match=r"=hf:.*: says 0 numbers of a text"):
    judged(f"hf:{plain}")
  with pytest.raises(ValueError, match=r"=hf:/none: no such folder"):
    judged("hf:/none")


def test_a_run_goes_on_from_a_reward_model(home, tmp_path):
  """Its head is taken along, with the gain of the run that it was."""
  _, *data = command.train_flags(tmp_path, home / "rows.jsonl")
  out, margins = f"hf:{home / 'out'}", []
  for i, flags in enumerate(
    (
      (f"--init_from={home / 'ranking'}",),
      (f"--init_from={out}", f"--data.template={out}"),
    )
  ):
    run = tmp_path / f"run{i}"
    said = command.call(
      "train",
      f"--workdir={run}",
      "--steps=1",
      *flags,
      *data,
      experiment=RANKING,
    )
    assert said.code == 0, said.err
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    margins.append(next(r["margin"] for r in rows if r["split"] == "train"))
  line = json.loads((home / "ranking/reward.json").read_text())
  np.testing.assert_allclose(margins[1], line["gain"] * margins[0], rtol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_critic_begins_as_a_reward_model(home, tied):
  """Of a policy with a head of its own, too; the critic's is never asked."""
  given = f"hf:{home / 'out'}"
  own = dataclasses.replace(RANKING.model, outputs=1)
  shape = dataclasses.replace(importing.model(given, own), tied=tied)
  experiment = Experiment(
    model=shape, objective=PPO(critic="own"), value_from=given
  )
  model, mesh = model_lib.of_shape(shape), mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    plan = state_plan.make(experiment, model, mesh)
    state = weights.start(experiment, plan, mesh)
  critic = state.trainable["value"]["params"]
  assert ("head" in critic) != tied
  _, wanted = families_test.read(home / "out", "float32")
  jax.tree.map(
    np.testing.assert_array_equal,
    {name: critic[name] for name in wanted},
    wanted,
  )
  policy = np.asarray(state.trainable["policy"]["params"]["output_head"])
  assert np.abs(policy - np.asarray(wanted["output_head"])).max() > 1e-3
