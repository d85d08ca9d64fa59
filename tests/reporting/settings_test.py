import dataclasses

from llm_jax import config
from llm_jax.experiment import Evaluation, Experiment, Samples
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.causal import Causal
from llm_jax.ops.sampling import Sampler
from llm_jax.reporting import settings
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule


def _found(experiment):
  groups = settings.groups(config.to_json(experiment))
  return groups, {s.flag: s for g in groups for s in g.settings}


def test_every_leaf_is_there_under_its_flag():
  experiment = Experiment()
  _, found = _found(experiment)
  leaves = list(config.leaves(experiment))
  assert {leaf.name for leaf in leaves} <= set(found)
  for leaf in leaves:
    assert found[leaf.name].help == leaf.help
  # Only members of tuples are rows besides, to say their class, and a tuple
  # that has none.
  rest = set(found) - {leaf.name for leaf in leaves}
  rest -= {"evaluations", "judges", "ptx"}
  assert all("data.sources." in name for name in rest)


def test_other_data_to_measure_is_a_group_each():
  experiment = Experiment(evaluations=(Evaluation("a"), Evaluation("b")))
  groups, found = _found(experiment)
  names = [g.name for g in groups if g.kind == "Evaluation"]
  assert names == ["evaluations.0", "evaluations.1"]
  assert found["evaluations.1.name"].value == "b"
  assert found["evaluations.0.data.length"].value == "256"
  assert "evaluations" not in found


def test_defaults_are_not_marked():
  groups, found = _found(Experiment())
  assert [s.flag for s in found.values() if s.changed] == []
  assert not any(g.changed for g in groups)


def test_what_differs_from_its_default_is_marked():
  experiment = Experiment(
    model=TransformerConfig(num_layers=3),
    objective=Causal(z_loss=1e-4),
    tokenizer=Bytes(),
    optimizer=AdamW(schedule=Schedule("wsd", warmup=7)),
    samples=Samples(prompts=("def ",), sampler=Sampler(top_k=5)),
    seed=1,
    average=0.99,
  )
  groups, found = _found(experiment)
  usual = {leaf.name: leaf.value for leaf in config.leaves(Experiment())}
  differ = {
    leaf.name
    for leaf in config.leaves(experiment)
    if leaf.name in usual and leaf.value != usual[leaf.name]
  }
  assert len(differ) >= 7
  assert {s.flag for s in found.values() if s.changed} == differ
  assert [g.name for g in groups if g.changed] == ["tokenizer"]
  assert found["samples.prompts"].value == '"def "'
  assert found["seed"].default == "0"


def test_what_is_not_known_here_is_shown_unmarked():
  given = config.to_json(Experiment(seed=5))
  given["gone"] = 3
  given["model"]["class"] = "llm_jax.models.gone:Model"
  given["objective"]["class"] = "os.path:join"  # never imported
  _, found = {}, {}
  for group in settings.groups(given):
    for s in group.settings:
      found[s.flag] = s
  assert found["gone"].value == "3" and not found["gone"].changed
  assert found["model.num_layers"].default is None
  assert found["objective.z_loss"].default is None
  assert found["seed"].changed


def test_no_settings_make_no_groups():
  assert settings.groups(None) == settings.groups([]) == []
  assert settings.groups({}) == []


def test_values_read_back():
  assert settings.shown(None) == "none"
  assert settings.shown(True) == "true"
  assert settings.shown(3e-4) == "0.0003"
  assert settings.shown(" x") == '" x"' and settings.shown("") == '""'
  assert settings.shown(["\n", "a"]) == '"\\n", "a"'
  assert dataclasses.is_dataclass(settings.Setting)
