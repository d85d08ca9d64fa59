"""What is saved comes back, to the bit, on any mesh; the right ones stay."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from llm_jax.checkpoints.store import Checkpoints, Store
from tests.checkpoints import trees


def store(folder, **settings):
  warnings = []
  made = Store(folder / "checkpoints", Checkpoints(**settings), warnings.append)
  return made, warnings


def saved(folder, losses, **settings):
  """A store after a save at each step of `losses`."""
  made, _ = store(folder, **settings)
  for step, loss in losses.items():
    made.save(step, trees.state(step), {"batches": step}, loss)
  made.wait()
  return made


def test_every_leaf_comes_back_to_the_bit(tmp_path):
  made, warnings = store(tmp_path)
  state, position = trees.state(3), {"batches": 3, "parts": [{"a": 1}, None]}
  made.save(3, state, position, 1.5)
  made.wait()
  step, restored, where = made.restore(trees.abstract(state))
  assert (step, where, warnings) == (3, position, [])
  assert trees.bits(restored) == trees.bits(state)
  # What lies on the disk is what this process saw.
  again, _ = store(tmp_path)
  assert trees.bits(again.restore(trees.abstract(state))[1]) == trees.bits(
    state
  )


def test_a_sources_arrays_come_back_to_the_bit(tmp_path):
  r = np.random.default_rng(0)
  rows = {"logp_BT": r.normal(size=(2, 3)), "mask_BT": np.array([[True]])}
  rows["odd_B"] = np.array([np.nan, -0.0], np.float32)
  made, _ = store(tmp_path)
  made.save(3, trees.state(), {"served": 2, "rows": rows, "none": {}})
  made.wait()
  found = Store(tmp_path / "checkpoints").position(3)
  assert (found["served"], found["none"]) == (2, {})
  assert trees.bits(found["rows"]) == trees.bits(rows)
  files = [p.name for p in (tmp_path / "checkpoints" / "00000003").iterdir()]
  assert "position.npz" in files
  (tmp_path / "checkpoints" / "00000003" / "position.npz").unlink()
  with pytest.raises(ValueError, match="position.npz is missing"):
    Store(tmp_path / "checkpoints").restore_part({}, 3)


@pytest.mark.parametrize("leaf", ["key", "odd", "f32"])
def test_one_changed_bit_of_a_state_would_be_seen(leaf):
  state, other = trees.state(), trees.state()
  if leaf == "key":
    other["key"] = jax.random.key(18)
  else:
    x = np.array(other["weights"][leaf])
    x.view(np.uint32).flat[0] ^= 1
    other["weights"][leaf] = jnp.asarray(x)
  assert trees.bits(other) != trees.bits(state)


def test_the_key_draws_the_same_numbers(tmp_path):
  made = saved(tmp_path, {1: None})
  _, restored, _ = made.restore(trees.abstract(trees.state()))
  draw = jax.random.bits(restored["key"], (4,))
  np.testing.assert_array_equal(draw, jax.random.bits(jax.random.key(18), (4,)))


def test_nothing_saved_is_none(tmp_path):
  made, warnings = store(tmp_path)
  assert made.restore(trees.abstract(trees.state())) is None
  assert (made.steps(), made.best(), warnings) == ([], None, [])


def test_the_state_may_be_overwritten_once_save_returns(tmp_path):
  """Steps donate their state: its memory is used again while Orbax writes."""
  made, _ = store(tmp_path, keep=9)
  step = jax.jit(lambda x: x * -1.25 + 1, donate_argnums=0)
  x, wanted = jnp.arange(2.0**21, dtype=jnp.float32), {}
  for i in range(1, 4):
    wanted[i] = np.array(x)
    made.save(i, {"x": x}, {})
    for _ in range(5):
      x = step(x)
  made.wait()
  like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)}
  for i, array in wanted.items():
    np.testing.assert_array_equal(made.restore_part(like, i)[1]["x"], array)
    # The test can tell: a step later the numbers are others.
    assert not np.array_equal(array, np.asarray(step(jnp.array(array))))


@pytest.mark.parametrize(
  ("settings", "losses", "kept"),
  [
    ({"keep": 2}, {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.0}, [2, 3, 4]),
    ({"keep": 2, "best": False}, {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.0}, [3, 4]),
    ({"keep": 1}, {1: 3.0, 2: 2.0, 3: 1.0}, [3]),
    # A loss that is unknown, or no number, is not the best.
    ({"keep": 1}, {1: 5.0, 2: float("nan"), 3: None, 4: 6.0}, [1, 4]),
    ({"keep": 1}, {1: float("nan"), 2: 4.0, 3: 5.0}, [2, 3]),
    ({"keep": 1}, {0: 1.0, 1: 2.0}, [0, 1]),
  ],
)
def test_the_last_and_the_best_are_kept(tmp_path, settings, losses, kept):
  made = saved(tmp_path, losses, **settings)
  assert made.steps() == kept
  # Nothing else takes space.
  names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
  assert names == [f"{step:08d}" for step in kept]
  known = {s: x for s, x in losses.items() if s in kept and x is not None}
  known = {s: x for s, x in known.items() if x == x}
  if settings.get("best", True):
    assert made.best() == min(known, key=known.get)


def test_a_part_comes_back_alone_and_of_any_step(tmp_path):
  made = saved(tmp_path, {1: 1.0, 2: 2.0}, keep=2)
  part = {"weights": trees.state()["weights"]}
  for asked, step in ((None, 2), (1, 1), (2, 2)):
    at, found = made.restore_part(trees.abstract(part), asked)
    wanted = {"weights": trees.state(step)["weights"]}
    assert at == step
    assert trees.bits(found) == trees.bits(wanted)
  assert trees.bits(wanted) != trees.bits(part)  # steps differ
  said = r"--checkpoint_step=7: .*not written to its end"
  with pytest.raises(ValueError, match=said):
    made.restore_part(trees.abstract(part), 7)


def test_a_part_of_nothing_says_so(tmp_path):
  made, _ = store(tmp_path)
  with pytest.raises(ValueError, match="holds no checkpoint; train first"):
    made.restore_part({})


def test_another_shape_is_named(tmp_path):
  made = saved(tmp_path, {1: None})
  wanted = trees.abstract(trees.state())
  wanted["weights"]["f32"] = jax.ShapeDtypeStruct((8, 17), jnp.float32)
  with pytest.raises(
    ValueError, match=r"weights.f32 is \[8, 16\] there and \[8, 17\] here"
  ):
    made.restore(wanted)
  wanted["weights"]["f32"] = None
  wanted["weights"]["new"] = jax.ShapeDtypeStruct((2,), jnp.float32)
  with pytest.raises(ValueError, match=r"weights.new is None there"):
    made.restore(wanted)


def place(tree, mesh, *specs):
  """Matrices of the tree cut by `specs`, the rest copied."""

  def one(x):
    spec = P(*specs) if x.ndim == 2 and x.shape[0] % 8 == 0 else P()
    return jax.device_put(x, NamedSharding(mesh, spec))

  return jax.tree.map(one, tree)


def test_it_restores_onto_another_mesh(tmp_path):
  devices = np.array(jax.devices())
  assert len(devices) == 8
  names = ("data", "fsdp", "tensor")
  there = Mesh(devices.reshape(1, 8, 1), names)
  made, _ = store(tmp_path)
  state = place(trees.state(5), there, "fsdp")
  made.save(5, state, {})
  made.wait()
  for shape, specs in (
    ((2, 2, 2), ("tensor", "fsdp")),
    ((1, 1, 8), (None, "tensor")),
    ((8, 1, 1), ()),
  ):
    here = Mesh(devices.reshape(shape), names)
    like = trees.abstract(place(trees.state(), here, *specs))
    _, found, _ = made.restore(like)
    assert trees.bits(found) == trees.bits(state)
    wanted = like["weights"]["f32"].sharding
    assert found["weights"]["f32"].sharding.is_equivalent_to(wanted, 2)
    assert not wanted.is_equivalent_to(state["weights"]["f32"].sharding, 2)
  alone = jax.sharding.SingleDeviceSharding(devices[3])
  _, found, _ = made.restore(trees.abstract(state, alone))
  assert found["weights"]["bf16"].devices() == {devices[3]}
  assert trees.bits(found) == trees.bits(state)
