"""Whether the `peft` library loads adapters that we write, and says the same.

  python tests/goldens/exported_adapters.py write FOLDER  # with llm_jax
  python tests/goldens/exported_adapters.py check FOLDER  # with torch and peft

in two environments, from the repository's root. `write` reads the adapters of
every golden of `peft_folders.py` and exports them to FOLDER/NAME in float64,
with our logits; and adapters of which queries, keys and values of one tensor
have an A each, as training makes them, and some have none. `check` loads each
by peft 0.21.2 onto its base, with no tensor missing, and compares logits to
1e-12.
"""

import json
import pathlib
import sys
import types
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.interop import tiny

# Name -> (base, maps that are adapted, with DoRA).
OURS = {
  "gpt2_apart": ("gpt2", ("attention/*", "mlp/up"), False),
  "gpt2_some": ("gpt2", ("attention/query", "attention/value"), False),
  "gpt2_apart_dora": ("gpt2", ("*",), True),
  "phi3_apart": ("phi3", ("*",), False),
  "bert_some": ("bert", ("mlp/down", "attention/key"), False),
}


def names():
  """Of goldens, and of adapters that begin here."""
  # One scale for some layers and another for others is not of our runs.
  read = (p.stem for p in tiny.ADAPTERS.glob("*.npz"))
  return sorted({*read, *OURS} - {"llama_patterns"})


def base_of(name):
  """The golden of a case's base."""
  if name in OURS:
    return OURS[name][0]
  return str(tiny.golden(name, tiny.ADAPTERS)["base"])


def _adapters(name, target, shape, params, suffixes):
  """A method of ours, and its arrays."""
  import jax

  from llm_jax import axes, importing_adapters
  from llm_jax.peft.lora import LoRA
  from llm_jax.peft.sites import Base
  from tests.interop import peft_test

  if name not in OURS:
    folder = tiny.peft(target / "given" / name, name)
    adapters, _ = peft_test.load(folder, shape, params, suffixes)
    return importing_adapters.method(f"peft:{folder}", "adapter"), adapters
  _, maps, dora = OURS[name]
  method = LoRA(rank=2, alpha=3.0, targets=maps, dora=dora, stabilised=dora)
  made = method.add(Base(params, suffixes, jax.random.key(3), list))
  rng = np.random.default_rng(5)

  def moved(path, x):
    kept = path[-1].key in ("scale", "dropout")
    return x if kept else x + 0.3 * rng.normal(size=x.shape)

  return method, jax.tree_util.tree_map_with_path(moved, axes.unbox(made))


def write(target, name):
  """Exports adapters as `export --adapter=peft` does, with our logits."""
  from llm_jax import exporting, exporting_adapters, importing
  from llm_jax.experiment import Experiment
  from llm_jax.interop import peft, writing
  from tests.interop import families_test, peft_test

  of, folder = base_of(name), target / name
  with families_test.float64():
    shape, params, suffixes = peft_test.base(of, target / "bases")
    method, adapters = _adapters(name, target, shape, params, suffixes)
    policy = {"params": params, "adapters": adapters}
    settings = exporting.settings_of(shape)
    run = Experiment(
      model=shape, peft=method, init_from=f"hf:{target}/bases/{of}"
    )
    words = importing.words(run.init_from)
    family, _ = exporting.described(settings, words)
    trains = types.SimpleNamespace(trainable={"policy": {}})
    said, arrays = exporting_adapters.described(
      run,
      types.SimpleNamespace(base=params, suffixes=suffixes, abstract=trains),
      policy,
      (family, family.lines(settings)),
      np.float64,
    )
    logits = np.asarray(peft_test.program(of, shape)(policy))
  folder.mkdir()
  (folder / peft.CONFIG).write_text(json.dumps(said))
  writing.save(folder / peft.ONE, arrays)
  np.save(folder / "logits.npy", logits)
  print(f"{name}: {said['peft_type']} of {said.get('target_modules')}")


def check(target, name):
  """Loads them, and compares."""
  import peft
  import torch

  from tests.goldens import peft_folders

  warnings.filterwarnings("error", message=".*missing adapter keys.*")
  base = peft_folders.base(base_of(name), target / "checked")
  model = peft.PeftModel.from_pretrained(base, target / name).double().eval()
  found = torch.cat([p.flatten() for p in model.parameters()]).isfinite().all()
  got = peft_folders.logits(model, tiny.golden(base_of(name)))
  want = np.load(target / name / "logits.npy")
  largest = np.abs(got[:, -want.shape[1] :] - want).max()
  with model.disable_adapter():
    plain = peft_folders.logits(model, tiny.golden(base_of(name)))
  moved = np.abs(plain[:, -want.shape[1] :] - want).max()
  print(f"{name}: {largest:.1e} apart; the base alone {moved:.1e}")
  assert found and largest < 1e-12 < moved, name


def main(verb, target):
  target = pathlib.Path(target)
  if verb == "check":
    from tests.goldens import families

    families.widen()
  for name in names():
    {"write": write, "check": check}[verb](target, name)


if __name__ == "__main__":
  main(*sys.argv[1:])
