"""What a step sends between devices is what its placement cannot do without.

On simulated devices of a CPU, whose compiler knows no reduce-scatter of its
own: a sum of which each device then takes its part is counted as one.
"""

import dataclasses

import jax
import pytest

from llm_jax import abstract, roofline, state_plan
from llm_jax import model as model_lib
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment
from llm_jax.models import asked
from llm_jax.models.config import TransformerConfig
from llm_jax.sharding import collectives
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape

EXPERIMENT = Experiment(
  model=TransformerConfig(
    num_layers=2,
    embed_dim=64,
    mlp_dim=256,
    num_heads=8,
    vocab_size=256,
    tied=False,
    head_chunk=16,
    max_length=64,
  ),
  data=Text(length=64),
  batch_size=16,
)


def traffic(shape, **changes):
  """(bytes as compiled, the least), of each kind and axes."""
  e = dataclasses.replace(EXPERIMENT, mesh=shape, **changes)
  mesh = mesh_lib.make(shape)
  model = model_lib.of_shape(e.model)
  its = state_plan.make(e, model, mesh)
  with jax.set_mesh(mesh):
    rows = abstract.batch(e, model, its.abstract.roles, mesh)
    text = its.step.lower(its.abstract, rows).compile().as_text()
  names = dict(mesh.shape)
  sent = collectives.read(text, names)
  least = roofline.minimum(e, model.shape, its.abstract, names, {})
  return sent, least


def total(found, kinds=None):
  return sum(x.ici for x in found if kinds is None or x.kind in kinds)


def test_copies_of_the_model_add_their_gradients_once():
  sent, least = traffic(MeshShape(data=8))
  assert total(sent) == pytest.approx(total(least), rel=1e-3)
  assert {x.kind for x in sent} == {"all-reduce"}


def as_scatters(sent):
  """The sums of gradients, at the price of what is kept of them."""
  return total(sent) - total(sent, ["all-reduce"]) / 2


@pytest.mark.parametrize("remat", ["none", "full"])
def test_cut_weights_are_gathered_twice_and_their_gradients_scattered(remat):
  model = dataclasses.replace(EXPERIMENT.model, remat=remat)
  sent, least = traffic(MeshShape(data=1, fsdp=8), model=model)
  assert as_scatters(sent) <= 1.1 * total(least)
  assert as_scatters(sent) >= 0.9 * total(least)  # nothing was overlooked
  gathered = total(sent, ["all-gather"])
  assert gathered == pytest.approx(total(least, ["all-gather"]), rel=0.05)


def test_microbatches_gather_again():
  one, _ = traffic(MeshShape(data=1, fsdp=8))
  two, least = traffic(MeshShape(data=1, fsdp=8), microbatches=2)
  assert as_scatters(two) <= 1.1 * total(least)
  assert total(two) > 1.8 * total(one)


def test_shared_heads_add_up_activations():
  """Four sums a layer, and two more than a TPU's compiler makes of them.

  The gradients of what query, key and value read are summed over devices each
  before they are added; `topology_plan_test` sees them added first on a TPU.
  """
  model = dataclasses.replace(EXPERIMENT.model, activation="gelu")
  sent, least = traffic(MeshShape(data=1, tensor=8), model=model)
  layers = [x for x in least if x.why == "activations of layers"]
  more = total(layers) / 4 * 2
  assert total(sent) <= 1.05 * (total(least) + more)
  assert total(sent) >= total(least) + more


def test_stages_hand_on_what_they_made_and_share_the_vocabulary():
  """Once a turn, 7 of 4 parts: bubbles hand on, too, the last one to nobody."""
  model = dataclasses.replace(EXPERIMENT.model, num_layers=4)
  sent, least = traffic(MeshShape(data=1, stage=4), model=model)
  handed = total(least, ["collective-permute"]) * 4 / 3 * 7 / 4
  assert total(sent, ["collective-permute"]) == pytest.approx(handed)
  sums = total(least, ["all-reduce"])
  assert sums <= total(sent, ["all-reduce"]) <= 1.1 * sums
  assert {x.kind for x in sent} == {x.kind for x in least}


def test_mutant_a_head_gathered_at_each_chunk_is_caught(monkeypatch):
  """As a compiler leaves it in the loop over chunks."""
  monkeypatch.setattr(asked, "_gathered", lambda weights: weights)
  monkeypatch.setattr(
    asked,
    "every",
    lambda score, x, w, target, groups, chunk: in_loop(score, x, w, target),
  )

  def in_loop(score, x_BTD, weights, target_BT):
    cut = lambda a: a.reshape(a.shape[0], 4, -1, *a.shape[2:]).swapaxes(0, 1)
    _, found = jax.lax.scan(
      jax.checkpoint(lambda _, s: (None, score(s[0], weights, s[1]))),
      None,
      (cut(x_BTD), cut(target_BT)),
    )
    B, T = target_BT.shape
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(B, T), found)

  with pytest.raises(AssertionError):
    test_cut_weights_are_gathered_twice_and_their_gradients_scattered("none")
