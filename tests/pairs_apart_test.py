"""Preferences of encoder-decoders: how likely completions are to sources.

Dimension key: B rows; Q pairs; T positions of a target; S those of a source.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import asking, axes, self_play, trees
from llm_jax import model as model_lib
from llm_jax.contracts import asking as asked
from llm_jax.data.sides import SourceSide
from llm_jax.evaluation import divergence
from llm_jax.experiment import SelfPlay
from llm_jax.generation import completing
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.pairwise import by_pair, completion_logp
from llm_jax.ops.sampling import Sampler
from tests.data import preferences_test
from tests.interop import encoder_decoders_test, families_test, tiny

_WIDE = {"num_layers": 1, "embed_dim": 8, "max_length": 32}
SHAPES = {
  "t5": EncoderDecoderConfig(
    **_WIDE, mlp_dim=8, num_heads=2, positions="relative"
  ),
  "lstm": RecurrentEncoderDecoderConfig(**_WIDE),
}
EVERY = pytest.mark.parametrize("name", SHAPES)
BYTES = preferences_test.BYTES
READ = ("source_BS", "source_segment_BS", "source_position_BS")
TOLD = ("tokens_BT", "target_BT", "mask_BT", "prompt_BT")


@functools.cache
def model(name):
  """In float64, whose targets begin as those of rows."""
  its = {"dtype": "float64", "vocab_size": BYTES.vocab_size}
  shape = dataclasses.replace(SHAPES[name], start_id=BYTES.pad_id, **its)
  return model_lib.of_shape(shape)


@functools.cache
def variables(name, seed):
  r = np.random.default_rng(seed)
  boxed = jax.eval_shape(model(name).init, jax.random.key(0))

  def draw(path, x):
    around = 1.0 if trees.path_string(path).endswith("scale") else 0.0
    return jnp.asarray(around + 0.3 * r.normal(size=x.shape))

  return jax.tree_util.tree_map_with_path(draw, axes.unbox(boxed))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """Kind of rows -> a batch of them."""
  home = tmp_path_factory.mktemp("rows")
  its = {"source": SourceSide(20), "length": 24, "widths": 1}
  of = lambda kind: preferences_test.made(home, rows=kind, **its)
  return {kind: of(kind).train(8, 0).next() for kind in ("pairs", "labels")}


@pytest.fixture(autouse=True)
def float64():
  with families_test.float64():
    yield


@functools.cache
def scorer(name):
  """(variables, batch) -> log p of completions, [B]."""
  score = model(name).score
  return jax.jit(lambda v, batch: completion_logp(score(v, batch), batch))


def written(name, batch):
  """Log p of completions by a loop that writes one token after the other."""
  v, its = variables(name, 0), model(name)
  prompt_BP, length_B = completing.prompts(batch)
  B, P = prompt_BP.shape
  place_BP = np.arange(P) - (P - np.asarray(length_B)[:, None])
  step, out = jax.jit(its.decode), np.zeros(B)
  cache = its.open_cache(v, B, 48)
  logits_BV, cache = step(
    v,
    prompt_BP,
    np.maximum(place_BP, 0).astype(np.int32),
    (place_BP >= 0).astype(np.int32),
    cache,
  )
  there_BT = np.asarray(batch["mask_BT"])
  for t in range(int(there_BT.sum(1).max())):
    target_B = batch["target_BT"][:, t]
    logp_BV = np.asarray(jax.nn.log_softmax(logits_BV))
    out += there_BT[:, t] * logp_BV[np.arange(B), target_B]
    at_B1 = np.full((B, 1), t, np.int32)
    one_B1 = np.ones((B, 1), np.int32)
    logits_BV, cache = step(v, target_B[:, None], at_B1, one_B1, cache)
  return out


@EVERY
def test_a_completion_is_as_likely_as_it_is_to_be_written(name, rows):
  batch = rows["pairs"]
  wanted, score = written(name, batch), scorer(name)
  v = variables(name, 0)
  np.testing.assert_allclose(score(v, batch), wanted, atol=1e-10)
  # Each of a pair is another's, and prompts are not of one length.
  assert np.abs(np.diff(by_pair(wanted))).min() > 1e-2
  # As answers that were drawn are laid out, and completions for a judge.
  prompts = [
    row[there > 0][:-1].tolist()
    for row, there in zip(*(batch[k] for k in READ[:2]), strict=True)
  ]
  completions = [
    row[there].tolist()
    for row, there in zip(batch["target_BT"], batch["mask_BT"], strict=True)
  ]
  given = model(name).shape, BYTES, prompts, completions, 10, 0
  found = score(v, asking.scored(*given))
  np.testing.assert_allclose(found[:8], wanted, atol=1e-10)
  np.testing.assert_array_equal(found[8:], 0)
  # The mutants: the source of another pair; padding that is read.
  other = {k: np.roll(batch[k], 2, 0) for k in READ}
  assert np.abs(score(v, batch | other) - wanted).min() > 1e-3
  whole = batch["source_segment_BS"]
  padded = batch | {"source_segment_BS": np.ones_like(whole)}
  assert np.abs(score(v, padded) - wanted).max() > 1e-3


@functools.cache
def teller(name, objective):
  """(roles, batch) -> loss and metrics as a step has them, and rewards.

  The reference reads sources of its own.
  """
  score = model(name).score

  def reference(v, batch, **how):
    theirs = {k: batch[f"their_{k}"] for k in READ}
    return score(v, {**batch, **theirs}, **how)

  forward = {"policy": score, "reference": reference}

  @jax.jit
  def tell(roles, batch):
    batch = asked(objective, batch)
    weighed = objective.weigh(objective.annotate(forward, roles, batch))
    loss, metrics = objective.loss(forward, roles, weighed, None)
    return loss, metrics, objective.rewards(forward, roles, batch)

  def told(roles, batch, moved=0):
    """The reference reads the source of the row that is `moved` before."""
    theirs = {f"their_{k}": np.roll(batch[k], moved, 0) for k in READ}
    return tell(roles, batch | theirs)

  return told


@pytest.mark.parametrize(
  "name,objective,kind,wanted",
  [
    ("t5", DPO(), "pairs", np.log(2)),
    ("lstm", DPO(), "pairs", np.log(2)),
    ("t5", KTO(), "labels", 0.5),
  ],
)
def test_who_is_its_own_reference_has_learned_nothing(
  name, objective, kind, wanted, rows
):
  same = dict.fromkeys(("policy", "reference"), variables(name, 0))
  loss, metrics, rewards = teller(name, objective)(same, rows[kind])
  np.testing.assert_allclose(loss, wanted, rtol=0, atol=1e-12)
  np.testing.assert_allclose(rewards, 0, atol=1e-12)
  assert metrics["logp_chosen"].compute() < -1
  # The mutant: the reference reads the source of another pair.
  loss, *_ = teller(name, objective)(same, rows[kind], 2)
  assert abs(loss - wanted) > 1e-4


@EVERY
def test_chosen_and_rejected_exchanged_exchange_rewards(name, rows):
  """1 / (1 + e^-x) + 1 / (1 + e^x) = 1, of each pair's logits."""
  roles = {"policy": variables(name, 0), "reference": variables(name, 1)}
  batch, tell = rows["pairs"], teller(name, DPO())
  turned = lambda names: {
    k: by_pair(batch[k])[:, ::-1].reshape(batch[k].shape) for k in names
  }
  both = batch | turned(TOLD + READ)
  loss, metrics, reward_B = tell(roles, batch)
  other, its, turned_B = tell(roles, both)
  back_B = by_pair(turned_B)[:, ::-1].reshape(-1)
  np.testing.assert_allclose(back_B, reward_B, rtol=0, atol=1e-12)
  margins = (m["margin"].compute() for m in (metrics, its))
  np.testing.assert_allclose(sum(margins), 0, atol=1e-12)
  x_Q = -np.diff(by_pair(reward_B))[:, 0]
  np.testing.assert_allclose(loss, np.log1p(np.exp(-x_Q)).mean(), atol=1e-12)
  np.testing.assert_allclose(other, np.log1p(np.exp(x_Q)).mean(), atol=1e-12)
  # A pair has one source; the mutant exchanges targets, and turns those round.
  alone = tell(roles, batch | turned(TOLD))[2]
  np.testing.assert_allclose(alone, turned_B, rtol=0, atol=1e-12)
  moved = {k: np.array(batch[k]) for k in READ}
  for x in moved.values():
    x[1::2] = np.roll(x[1::2], 1, 0)  # of rejected ones alone
  mutant = tell(roles, batch | moved)[2]
  np.testing.assert_allclose(mutant[::2], reward_B[::2], atol=1e-12)
  assert np.abs(mutant - reward_B)[1::2].min() > 1e-4


@EVERY
def test_what_is_drawn_against_is_the_likeliest_of_its_source(name, rows):
  """Self-play, without chance; whatever the row of the rejected one held."""
  v, batch = variables(name, 1), rows["pairs"]
  greedy = SelfPlay(max_new_tokens=6, sampler=Sampler(temperature=0.0))
  score = model(name).score
  emptied = {
    k: x * (np.arange(8) % 2 == 0)[:, None]
    for k, x in batch.items()
    if k in TOLD + READ
  }

  @jax.jit
  def play(batch):
    given = model(name), greedy, (BYTES.eos_id,), v, batch, jax.random.key(0)
    found = self_play.against(*given)
    return found, score(v, found, hits=True).hit_BT

  found, hit_BT = play(batch | emptied)
  for k in TOLD + READ:
    np.testing.assert_array_equal(found[k][::2], batch[k][::2])
  for k in READ:
    np.testing.assert_array_equal(found[k][1::2], batch[k][::2])
  drawn_BT = np.asarray(found["mask_BT"])[1::2]
  assert (drawn_BT.sum(1) == 6).any() and drawn_BT[:, 0].all()
  assert np.asarray(hit_BT)[1::2][drawn_BT].all()
  # The mutant: prompts of others.
  moved = {k: np.roll(found[k], 2, 0) for k in READ}
  hit_BT = jax.jit(lambda b: score(v, b, hits=True).hit_BT)(found | moved)
  assert not np.asarray(hit_BT)[1::2][drawn_BT].all()


GOLDEN = pathlib.Path(__file__).parent / "goldens" / "pairs_t5.npz"


def drawn_by(seed, folder):
  """Shape and params of the golden's T5, its weights drawn from a seed."""
  change = lambda name, x: tiny.weight(name, x.shape, seed)
  folder = encoder_decoders_test.write("t5", folder / str(seed), change)
  return families_test.read(folder, kind=EncoderDecoderConfig)


def test_loss_and_slope_are_those_of_torch(tmp_path):
  """See `goldens/make_pairs_t5.py`."""
  golden = np.load(GOLDEN)
  parts = {seed: drawn_by(seed, tmp_path) for seed in (0, 2, 3)}
  (shape, policy), (_, reference), (_, way) = parts.values()
  score = model_lib.of_shape(shape).score
  sources = [x[x > 0].tolist() for x in golden["source_BS"]]
  targets = [x[x >= 0].tolist() for x in golden["label_BT"]]
  sides = golden["source_BS"].shape[1] + 3, golden["label_BT"].shape[1] + 2
  batch = divergence.aside(sources, targets, shape.start_id, 6, sides)
  forward = dict.fromkeys(("policy", "reference"), score)
  objective = DPO(beta=float(golden["beta"]))

  @jax.jit
  def tell(params, batch):
    def loss(params):
      roles = {
        "policy": {"params": params},
        "reference": {"params": reference},
      }
      weighed = objective.weigh(objective.annotate(forward, roles, batch))
      found, _ = objective.loss(forward, roles, weighed, None)
      return found, weighed["ref_logp_B"]

    logp_B = completion_logp(score({"params": params}, batch), batch)
    (found, ref_B), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    # From tensors to params is a linear map.
    slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, way))))
    return found, slope, logp_B, ref_B

  loss, slope, *logps = tell(policy, batch)
  wanted = [
    golden[f"{role}_Q2"].reshape(-1) for role in ("policy", "reference")
  ]
  np.testing.assert_allclose(logps, wanted, rtol=0, atol=1e-9)
  np.testing.assert_allclose(loss, golden["loss"], rtol=0, atol=1e-9)
  np.testing.assert_allclose(slope, golden["slope"], rtol=1e-9)
  # Mutants: a reference that moves along; sources of other pairs; a start that
  # is no pad.
  assert abs(tell(reference, batch)[0] - golden["loss"]) > 1e-2
  for name, by in (("source_BS", 2), ("source_BS", 1), ("tokens_BT", 1)):
    found = tell(policy, batch | {name: np.roll(batch[name], by, 0)})[0]
    assert abs(found - golden["loss"]) > 1e-3, (name, by)
