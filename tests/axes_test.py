"""The dimension key: a suffix places a tensor."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax.models import presets, transformer
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from tests import small

ROWS = ("data", "fsdp", "expert")
SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
  "suffix,kind,want",
  [
    ("BTD", "activation", P(ROWS, "context", None)),
    ("BTNH", "activation", P(ROWS, "context", "tensor", None)),
    ("BSKH", "activation", P(ROWS, None, "tensor", None)),
    ("BTV", "activation", P(ROWS, "context", ("tensor", "stage"))),
    ("U_V", "activation", P((*ROWS, "context"), None, ("tensor", "stage"))),
    ("DF", "weight", P("fsdp", "tensor")),
    ("LDNH", "weight", P("stage", "fsdp", "tensor", None)),
    ("DV", "weight", P("fsdp", ("tensor", "stage"))),
    ("WE", "weight", P(("fsdp", "tensor", "stage"), None)),
    ("D", "weight", P("fsdp")),
    ("_2D", "weight", P(None, None, "fsdp")),
    ("", "weight", P()),
  ],
)
def test_known_placements(suffix, kind, want):
  assert axes.spec(suffix, kind) == want


def test_what_does_not_divide_is_copied():
  assert axes.spec("DKH", "weight", (6, 1, 4), SIZES) == P("fsdp", None, None)
  assert axes.spec("DKH", "weight", (5, 2, 4), SIZES) == P(None, "tensor", None)
  # Rows of a table: by fsdp alone where both together do not divide.
  assert axes.spec("WE", "weight", (6, 4), SIZES) == P("fsdp", None)
  # An axis of one device cuts nothing.
  assert axes.spec("WE", "weight", (6, 4), {"fsdp": 1, "tensor": 2}) == P(
    "tensor", None
  )
  assert axes.spec("WE", "weight", (8, 4), SIZES) == P(("fsdp", "tensor"), None)


def test_mutant_cutting_what_does_not_divide_is_refused_by_jax():
  mesh = mesh_lib.make(MeshShape(data=2, fsdp=2, tensor=2))
  x = np.zeros((4, 1, 3))
  cut = lambda *more: jax.sharding.NamedSharding(
    mesh, axes.spec("DKH", "weight", *more)
  )
  jax.device_put(x, cut(x.shape, SIZES))
  with pytest.raises(ValueError, match="axis 1 is partitioned 2 times"):
    jax.device_put(x, cut())


def test_an_unknown_letter_is_an_error():
  with pytest.raises(KeyError):
    axes.spec("BQ", "activation")


def test_every_letter_is_known_and_cut_by_axes_of_the_mesh():
  for letter, axis in axes.KEY.items():
    assert len(letter) == 1 and letter.isupper() and axis.meaning
    assert {*axis.weight, *axis.activation} <= set(mesh_lib.NAMES)


def shapes(config):
  model = transformer.Decoder(config)
  return jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
  )


@pytest.mark.parametrize("shape", small.SHAPES)
def test_every_parameter_has_a_suffix_that_cuts_no_axis_twice(shape):
  boxed = shapes(small.SHAPES[shape])
  arrays = dict(trees.paths(axes.unbox(boxed)))
  for path, suffix in trees.paths(axes.suffixes(boxed)):
    assert suffix and len(suffix) == arrays[path].ndim, path
    names = [
      name
      for entry in axes.spec(suffix, "weight")
      for name in ((entry,) if isinstance(entry, str) else entry or ())
    ]
    assert len(names) == len(set(names)), (path, suffix)


def test_large_matrices_are_cut_over_every_axis_that_cuts_weights():
  """Of Llama 3 8B, what is left whole on 2 x 2 devices is a few norms."""
  boxed = shapes(presets.llama3_8b())
  mesh = mesh_lib.make(MeshShape(data=2, fsdp=2, tensor=2))
  placed = dict(trees.paths(axes.shardings(boxed, mesh)))
  whole = here = 0
  for path, x in trees.paths(axes.unbox(boxed)):
    whole += x.size
    here += math.prod(placed[path].shard_shape(x.shape))
  assert whole / 4 <= here < whole / 4 * 1.001


def test_mutant_one_letter_without_its_axis_is_caught(monkeypatch):
  monkeypatch.setitem(axes.KEY, "F", axes.Axis("feed-forward width"))
  with pytest.raises(AssertionError):
    test_large_matrices_are_cut_over_every_axis_that_cuts_weights()


def box(value, suffix):
  return nn.LogicallyPartitioned(value, tuple(suffix))


def test_leaves_without_a_fitting_suffix_are_copied():
  """A count has no suffix; a factored moment has fewer dims than its own."""
  mesh = mesh_lib.make(MeshShape(data=2, fsdp=2, tensor=2))
  x = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  tree = {"w": box(x(4, 8), "DF"), "row": box(x(4), "DF"), "count": x()}
  got = axes.shardings(tree, mesh)
  assert got["w"].spec == P("fsdp", "tensor")
  assert got["row"].is_fully_replicated and got["count"].is_fully_replicated
  assert axes.suffixes(tree) == {"w": "DF", "row": "DF", "count": ""}
  assert axes.unbox(tree)["w"].shape == (4, 8)


def test_constrain_places_and_changes_no_value():
  mesh = mesh_lib.make(MeshShape(data=2, fsdp=2, tensor=2))
  x_BTD = np.arange(8 * 3 * 4.0).reshape(8, 3, 4)
  assert axes.constrain(x_BTD, "BTD") is x_BTD  # no mesh: nothing to do
  with jax.set_mesh(mesh):
    y_BTD = jax.jit(lambda x: axes.constrain(x, "BTD"))(x_BTD)
  np.testing.assert_array_equal(y_BTD, x_BTD)
  assert y_BTD.sharding.shard_shape(y_BTD.shape) == (2, 3, 4)
  with pytest.raises(ValueError, match="'BT' names 2 dims"):
    axes.constrain(x_BTD, "BT")


def test_split_and_join():
  tree = {"a": {"x": np.ones(2), "y": np.zeros((3, 2))}, "b": np.ones(1)}
  on, off = trees.split(tree, lambda path: path.startswith("a/"))
  assert on["b"] is None and off["a"] == {"x": None, "y": None}
  back = trees.join(on, off)
  assert jax.tree.structure(back) == jax.tree.structure(tree)
  assert all(
    a is b for a, b in zip(*map(jax.tree.leaves, (tree, back)), strict=True)
  )
  assert [p for p, _ in trees.paths(tree)] == ["a/x", "a/y", "b"]
  assert trees.size(tree) == 9 and trees.num_bytes(tree) == 72
  boxed = {"w": box(np.ones(2), "D")}  # a box is one leaf
  assert trees.split(boxed, lambda path: path == "w")[0]["w"] is boxed["w"]
