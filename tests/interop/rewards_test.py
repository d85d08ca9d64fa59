"""Reward models leave as they are used, and come back."""

import dataclasses
import json

import numpy as np
import pytest

from llm_jax import judging, normalising
from llm_jax.contracts import Question
from llm_jax.evaluation.standard import Line
from llm_jax.interop import families
from llm_jax.interop.folder import Folder
from llm_jax.judges.reward import RewardModel
from llm_jax.sharding import mesh as mesh_lib
from tests import command, normalising_test

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


def judged(run, **how):
  experiment = dataclasses.replace(
    RANKING, judge=RewardModel(run=str(run), **how)
  )
  mesh = mesh_lib.make(experiment.mesh)
  judge, _ = judging.make(experiment, run, None, mesh)
  asked = [Question((("user", p),), (c,)) for p, c in ASKED]
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
