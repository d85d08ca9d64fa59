"""No setting goes unread: each leaf is read by the program, and not only to
be written down."""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import shutil
import sys

import jax.numpy as jnp
import pytest

import llm_jax
from llm_jax import build, config
from llm_jax.config import field
from llm_jax.models import unread as unread_lib
from llm_jax.training import optimizers
from llm_jax.training.refresh import Refresh
from tests import command, every_setting

HOME = llm_jax.__path__[0]


def settings_classes():
  """Every dataclass of the package with a documented leaf of its own."""
  found = []
  for about in pkgutil.walk_packages(llm_jax.__path__, "llm_jax."):
    module = importlib.import_module(about.name)
    found += [
      kind
      for kind in vars(module).values()
      if isinstance(kind, type)
      and kind.__module__ == about.name
      and dataclasses.is_dataclass(kind)
      and own_leaves(kind)
    ]
  return found


def own_leaves(kind):
  """Names of leaves that a class adds to those it inherits."""
  return [
    f.name
    for f in dataclasses.fields(kind)
    if "help" in f.metadata and f.name in kind.__annotations__
  ]


@contextlib.contextmanager
def watched(kinds):
  """A set that fills with the "Class.leaf" that the program reads.

  Reading a setting to write it down, compare or check it is not using it.
  """
  owners = {kind: own_leaves(kind) for kind in kinds}
  reads = set()

  def read(self, name):
    caller = sys._getframe(1).f_code
    if (
      caller.co_filename.startswith(HOME)
      and caller.co_filename not in (config.__file__, unread_lib.__file__)
      and caller.co_name not in ("__post_init__", "_rotates")
    ):
      for kind in type(self).__mro__:
        if name in owners.get(kind, ()):
          reads.add(f"{kind.__name__}.{name}")
    return object.__getattribute__(self, name)

  with contextlib.ExitStack() as undo:
    for kind in kinds:
      kind.__getattribute__ = read
      undo.callback(delattr, kind, "__getattribute__")
    yield reads


def unread(kinds, reads):
  """Leaves of the classes that are not among what was read."""
  return {f"{k.__name__}.{n}" for k in kinds for n in own_leaves(k)} - reads


def test_no_leaf_goes_unread(tmp_path, tmp_path_factory):
  there = command.trained(tmp_path_factory)
  copy = shutil.copytree(there, tmp_path / "copy")
  kinds = settings_classes()
  assert len(kinds) > 15
  with watched(kinds) as reads:
    every_setting.run_everything(copy, there / "text.txt")
    every_setting.trace_step(
      dataclasses.replace(command.EXPERIMENT, average=0.9)
    )
    Refresh(every=1).mixed(*[jnp.ones((), jnp.int32)] * 3)
    other = dataclasses.replace(command.EXPERIMENT, init_from="nowhere")
    with pytest.raises(ValueError):
      build.data(other, tmp_path / "new")
    every_setting.try_every_peft()
    every_setting.try_every_model()
    every_setting.try_every_optimizer()
    every_setting.try_every_objective()
    every_setting.try_every_drawing()
    every_setting.try_every_source(tmp_path, there / "cache")
    every_setting.try_every_corruption(tmp_path)
    every_setting.try_every_conversation(tmp_path, there / "cache")
    every_setting.try_every_preference(tmp_path, there / "cache")
    every_setting.try_every_example(tmp_path, there / "cache")
    every_setting.try_every_mark(tmp_path)
    every_setting.try_every_judge(tmp_path, copy / "run")
  assert unread(kinds, reads) == set()


@dataclasses.dataclass(frozen=True)
class Coloured(optimizers.AdamW):
  """A mutant: it says more than it does."""

  colour: str = field("red", "read by nobody")
  b1: float = field(0.8, "says it is Adam's", low=0, high=1)


def test_mutant_a_leaf_that_nobody_reads_is_caught():
  kinds = [*settings_classes(), Coloured]
  with watched(kinds) as reads:
    every_setting.try_every_optimizer(Coloured)
  left = unread(kinds, reads)
  assert "Coloured.colour" in left
  assert "Coloured.b1" not in left and "AdamW.b2" not in left
  assert "Checkpoints.keep" in left  # nothing was saved


def test_writing_down_and_comparing_is_not_reading():
  kinds = settings_classes()
  e = command.EXPERIMENT
  with watched(kinds) as reads:
    config.to_json(e)
    list(config.leaves(e))
    assert hash(e) == hash(dataclasses.replace(e, seed=0))
    assert e == command.EXPERIMENT and repr(e)
  assert reads == set()


def test_defaults_lie_within_their_own_bounds():
  for kind in settings_classes():
    if inspect.isabstract(kind):
      continue
    for leaf in config.leaves(kind()):
      values = leaf.value if isinstance(leaf.value, tuple) else (leaf.value,)
      for value in values:
        if isinstance(value, int | float):
          assert leaf.low is None or value >= leaf.low, leaf
          assert leaf.high is None or value <= leaf.high, leaf
