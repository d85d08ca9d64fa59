"""Whether transformers loads what we write, and says what it said before.

  python tests/goldens/exported.py write FOLDER   # with llm_jax
  python tests/goldens/exported.py check FOLDER   # with torch and transformers

in two environments, from the repository's root. `write` reads the folder of
every golden beside this and exports it to FOLDER/NAME in float64; `check` loads
each by transformers 5.23 as it is, with no tensor missing and none left, and
compares logits with those of the golden to 1e-12, and numbers of texts, tokens
and spans likewise (`exported_heads`), a reward model's to 2e-5. What
encoder-decoders go on with is drawn by transformers' own `generate`.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.goldens import exported_heads
from tests.interop import tiny


def write(target, name):
  """Imports and exports a golden's folder."""
  import jax

  from llm_jax import axes, exporting
  from llm_jax import model as model_lib
  from llm_jax.interop import family as family_lib
  from llm_jax.interop import writing
  from tests.interop import families_test

  golden, here = tiny.golden(name), target / "given" / name
  tiny.write(here, golden["config"], golden["tensors"])
  with families_test.float64():
    shape, params = families_test.read(here, kind=families_test.kind(name))
    boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
    settings = exporting.settings_of(shape)
    family, said = exporting.described(settings)
    folder = target / name
    folder.mkdir()
    lines, suffixes = family.lines(settings), axes.suffixes(boxed["params"])
    writing.write(
      *(folder, lines, params, suffixes, "float64", 20_000),
      families_test.SAME,
    )
    said = {"pad_token_id": 0} | said  # as `export` has it of a tokenizer
    start = family_lib.begins(settings)
    (folder / "generation_config.json").write_text(json.dumps(start))
    (folder / "config.json").write_text(json.dumps(said))
    print(f"{name}: written as {said['architectures'][0]}")


def check(target, name):
  """Loads it, and compares."""
  import torch
  import transformers

  golden, folder = tiny.golden(name), target / name
  said = json.loads((folder / "config.json").read_text())
  kind = said["architectures"][0]
  more = {} if "type_BT" not in golden else {"token_type_ids": "type_BT"}
  mixed = "Moe" in kind or "Mixtral" in kind
  eager = {"experts_implementation": "eager"} if mixed else {}
  net, info = getattr(transformers, kind).from_pretrained(
    folder,
    dtype=torch.float64,
    attn_implementation="eager",
    output_loading_info=True,
    **eager,
  )
  assert not info["missing_keys"] and not info["unexpected_keys"], info
  if name in tiny.ENCODER_DECODERS:
    _check_of_two_stacks(name, net.eval(), golden)
    return
  mask_BT = golden["mask_BT"]
  place_BT = np.maximum(mask_BT.cumsum(1) - 1, 0)
  if kind.startswith("Roberta"):
    place_BT = place_BT + said["pad_token_id"] + 1
  tensor = torch.from_numpy
  with torch.no_grad():
    out = net.eval()(
      tensor(golden["ids_BT"]),
      attention_mask=tensor(mask_BT),
      position_ids=tensor(place_BT),
      **{key: tensor(golden[its]) for key, its in more.items()},
    )
  apart = np.abs(out.logits.numpy() - golden["logits_BTV"])
  largest = apart[mask_BT.astype(bool)].max()
  print(f"{name}: {largest:.1e} as {kind}")
  assert largest < 1e-12, name


def _check_of_two_stacks(name, net, golden):
  """What of `check` is otherwise for encoder-decoders."""
  import torch

  its = ("source_BS", "mask_BS", "ids_BT")
  source, mask, ids = (torch.from_numpy(golden[key]) for key in its)
  with torch.no_grad():
    out = net(source, attention_mask=mask, decoder_input_ids=ids)
    drawn = net.generate(
      source[:1],
      attention_mask=mask[:1],
      max_new_tokens=20,
      do_sample=False,
      eos_token_id=None,
    )
  largest = np.abs(out.logits.numpy() - golden["logits_BTV"]).max()
  same = drawn[0, 1:].tolist() == golden["greedy_T"].tolist()
  print(f"{name}: {largest:.1e} as {type(net).__name__}; 20 tokens: {same}")
  assert largest < 1e-12 and same, name


def main(verb, target):
  target = pathlib.Path(target)
  if verb == "check":
    from tests.goldens import families

    families.widen()
  for file in sorted(tiny.GOLDENS.glob("*.npz")):
    {"write": write, "check": check}[verb](target, file.stem)
  for file in sorted(tiny.HEADS.glob("*.npz")):
    getattr(exported_heads, verb)(target, file.stem)
  getattr(exported_heads, f"{verb}_reward")(target)


if __name__ == "__main__":
  main(*sys.argv[1:])
