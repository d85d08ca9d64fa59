"""Settings <-> flags <-> JSON: nothing is lost, and nothing is made up."""

import dataclasses
import importlib
import json
import math
import pathlib
from typing import Literal
from unittest import mock

from absl import flags
import pytest

from llm_jax import config
from llm_jax.config import field
from llm_jax.experiment import Experiment
from llm_jax.models.config import TransformerConfig
from llm_jax.training import optimizers

EXPERIMENTS = sorted(
  p.stem
  for p in (pathlib.Path(__file__).parent.parent / "experiments").glob("*.py")
  if p.stem != "__init__"
)


@dataclasses.dataclass(frozen=True)
class Part:
  share: float = field(0.5, "a share", low=0, high=1)
  names: tuple[str, ...] = field(("a", "b"), "names")


@dataclasses.dataclass(frozen=True)
class Inner:
  power: float | None = field(None, "a power", low=0)
  kind: Literal["plain", "fancy"] | None = field("plain", "a kind")
  parts: tuple[Part, ...] = (Part(), Part(0.25, ()))


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner = Inner()
  count: int = field(3, "how many", low=1, high=9)
  is_on: bool = field(True, "whether")
  label: str = field("x", "a label")
  maybe: str | None = field(None, "perhaps")
  sizes: tuple[int, ...] = field((1,), "sizes", low=1)
  rates: tuple[float, ...] = field((), "rates")
  mode: Literal["fast", "slow"] = field("fast", "a mode")


def parse(*given, settings=Outer()):
  """The settings after these flags."""
  values = flags.FlagValues()
  config.define(settings, values)
  values(["program", *given])
  return config.resolve(settings, values)


def change(settings, name, value):
  """The settings with one leaf changed, by hand."""
  head, _, rest = name.partition(".")
  if isinstance(settings, tuple):
    parts = list(settings)
    parts[int(head)] = change(parts[int(head)], rest, value)
    return tuple(parts)
  if rest:
    value = change(getattr(settings, head), rest, value)
  return dataclasses.replace(settings, **{head: value})


# (flag, what stands after =, the value)
GIVEN = [
  ("count", "7", 7),
  ("count", "0_9", 9),
  ("is_on", "false", False),
  ("is_on", "True", True),
  ("label", "none", "none"),
  ("label", "", ""),
  ("label", "a=b", "a=b"),
  ("maybe", "none", None),
  ("maybe", "text, with a comma", "text, with a comma"),
  ("sizes", "4,5", (4, 5)),
  ("sizes", "4, 5", (4, 5)),
  ("sizes", "", ()),
  ("rates", "1,2.5e-3", (1.0, 0.0025)),
  ("mode", "slow", "slow"),
  ("inner.power", "2", 2.0),
  ("inner.power", "NONE", None),
  ("inner.kind", "fancy", "fancy"),
  ("inner.kind", "none", None),
  ("inner.parts.1.share", "1", 1.0),
  ("inner.parts.0.names", '"def f(a, b)",  c ', ("def f(a, b)", "  c ")),
  ("inner.parts.0.names", '"\n"', ("\n",)),
]


@pytest.mark.parametrize("name,text,value", GIVEN)
def test_a_flag_sets_its_leaf_and_no_other(name, text, value):
  want = change(Outer(), name, value)
  got = parse(f"--{name}={text}")
  assert got == want
  leaf = {x.name: x for x in config.leaves(got)}[name]
  assert type(leaf.value) is type(value)


def test_booleans_without_a_value():
  assert parse("--nois_on").is_on is False
  assert parse("--is_on").is_on is True


def test_a_flag_not_given_changes_nothing():
  """Precedence: a flag over the file, the file over the default."""
  file = change(Outer(), "count", 5)
  assert parse(settings=file) == file
  assert parse("--label=y", settings=file) == change(file, "label", "y")
  assert parse("--count=3", settings=file).count == 3  # the default, but given
  # Settings of a run already trained, with the flags of another file.
  values = flags.FlagValues()
  config.define(Outer(), values)
  values(["program", "--label=y"])
  assert config.resolve(file, values) == change(file, "label", "y")


def test_mutant_taking_every_flag_is_caught():
  """Taking defaults of flags for given values loses what a run had."""
  values = flags.FlagValues()
  config.define(Outer(), values)
  values(["program"])
  for name in values:
    values[name].present = 1
  file = change(Outer(), "count", 5)
  assert config.resolve(file, values) != file


@pytest.mark.parametrize(
  "given,said",
  [
    ("count=x", "must be a whole number, from 1 to 9"),
    ("count=1.0", "must be a whole number"),
    ("count=0", "from 1 to 9"),
    ("count=10", "from 1 to 9"),
    ("count=", "must be a whole number"),
    ("count=" + "9" * 5000, "must be a whole number"),
    ("is_on=maybe", "must be true or false"),
    ("sizes=1,x", "must be whole numbers, between commas, at least 1"),
    ("sizes=1,0", "at least 1"),
    ("rates=1,nan", "must be finite numbers"),
    ('inner.parts.0.names="a', "must be texts, between commas"),
    ("inner.parts.0.names=a\nb", "must be texts, between commas"),
    ("mode=Slow", "must be one of fast, slow"),
    ("inner.kind=odd", "must be one of plain, fancy, or none"),
    ("inner.power=-1", "at least 0, or none (= off)"),
    ("inner.power=nan", "must be a finite number"),
    ("inner.power=inf", "must be a finite number"),
    ("inner.parts.0.share=1.5", "from 0 to 1"),
  ],
)
def test_wrong_values_are_told_what_is_allowed(given, said):
  with pytest.raises(flags.IllegalFlagValueError) as e:
    parse(f"--{given}")
  assert f"--{given[:40]}" in str(e.value)
  assert said in str(e.value)


def test_mutant_bounds_by_comparison_alone_let_nan_in():
  """No comparison with nan is true, so `value < low` never refuses it."""

  def bounded(self, value):
    if self._leaf.low is not None and value < self._leaf.low:
      raise ValueError(value)
    return value

  with mock.patch.object(config._Parser, "_bounded", bounded):
    assert math.isnan(parse("--inner.power=nan").inner.power)


def test_a_flag_given_twice_is_refused():
  with pytest.raises(flags.IllegalFlagValueError, match="already defined"):
    parse("--count=3", "--count=4")


def test_a_type_without_a_flag_is_refused():
  @dataclasses.dataclass(frozen=True)
  class Odd:
    table: dict = field(None, "a table")

  @dataclasses.dataclass(frozen=True)
  class Pair:
    pair: tuple[int, str] = field((1, "a"), "a pair")

  for settings in (Odd(), Pair()):
    with pytest.raises(TypeError, match="no flag for a setting"):
      config.define(settings, flags.FlagValues())
  with pytest.raises(TypeError, match="not a leaf"):
    field(Part(), "a nested dataclass")


def load(name):
  return importlib.import_module(f"experiments.{name}").EXPERIMENT


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_leaf_of_an_experiment_is_a_documented_flag(name):
  experiment = load(name)
  values = flags.FlagValues()
  config.define(experiment, values)
  for leaf in config.leaves(experiment):
    assert leaf.help, leaf.name
    # The file's own value is allowed, and comes back from its text.
    if isinstance(leaf.value, tuple):
      continue
    text = "none" if leaf.value is None else str(leaf.value)
    assert values[leaf.name].parser.parse(text) == leaf.value, leaf.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_json_gives_the_experiment_back(name):
  experiment = load(name)
  text = json.dumps(config.to_json(experiment))
  again = config.from_json(json.loads(text))
  assert again == experiment
  assert hash(again) == hash(experiment)
  assert not config.differences(json.loads(text), config.to_json(experiment))


def test_json_keeps_which_class_it_was():
  for optimizer in (optimizers.Lion(), optimizers.Muon(clip=None)):
    e = Experiment(optimizer=optimizer)
    again = config.from_json(json.loads(json.dumps(config.to_json(e))))
    assert type(again.optimizer) is type(optimizer) and again == e


def test_json_of_another_time():
  """A setting that is gone is dropped, one that is new takes its default."""
  value = config.to_json(TransformerConfig(num_layers=7))
  value["gone"] = 1
  del value["mlp_dim"]
  assert config.from_json(value) == TransformerConfig(num_layers=7)


@pytest.mark.parametrize(
  "kind", ["os:system", "llm_jax.config:gone", "llm_jax.gone:X", "builtins:int"]
)
def test_json_makes_only_our_dataclasses(kind):
  with pytest.raises(ValueError, match="settings name"):
    config.from_json({"class": kind})


def differences(old, new):
  return config.differences(config.to_json(old), config.to_json(new))


def test_differences_name_what_changed_and_nothing_else():
  assert differences(Outer(), Outer()) == {}
  new = change(change(Outer(), "inner.parts.1.share", 0.75), "maybe", "x")
  assert differences(Outer(), new) == {
    "inner.parts.1.share": (0.25, 0.75),
    "maybe": (None, "x"),
  }
  fewer = dataclasses.replace(Outer(), inner=Inner(parts=(Part(),)))
  assert list(differences(Outer(), fewer)) == ["inner.parts"]
  other = Experiment(optimizer=optimizers.Lion())
  assert "optimizer.class" in differences(Experiment(), other)


def test_one_is_one_point_zero_but_not_true():
  assert not config.differences({"a": 1}, {"a": 1.0})
  assert config.differences({"a": 1}, {"a": True})
  assert config.differences({"a": 0.1}, {"a": 0.1 + 1e-17 * 8})
