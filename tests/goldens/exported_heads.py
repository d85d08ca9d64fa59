"""What `exported.py` does with heads of texts, tokens and spans, and rewards.

A tiny reward model is trained and exported to FOLDER/reward; transformers
loads it with its tokenizer and template, and says of answers what the run's
judge says, whichever side is padded.
"""

import json

import numpy as np

from tests.interop import tiny

REWARD = "reward"
ASKED = (
  ("7?", "hhhhhh"),
  ("3?", "3-3"),
  ("12? and more than that?", "a"),
)


def write(target, name):
  """Imports and exports a golden's folder."""
  from tests.interop import families_test, heads_test

  given = heads_test.made(name, target / "given")
  with families_test.float64():
    shape, params = heads_test.read(given, "float64")
    heads_test.again(name, given, shape, params, target / name)
  said = json.loads((target / name / "config.json").read_text())
  said = {"pad_token_id": 0} | said  # as `export` has it of a tokenizer
  (target / name / "config.json").write_text(json.dumps(said))
  print(f"{name}: written as {said['architectures'][0]}")


def _loaded(folder):
  import torch
  import transformers

  said = json.loads((folder / "config.json").read_text())
  kind = said["architectures"][0]
  net, info = getattr(transformers, kind).from_pretrained(
    folder,
    dtype=torch.float64,
    attn_implementation="eager",
    output_loading_info=True,
  )
  assert not info["missing_keys"] and not info["unexpected_keys"], info
  return net.eval(), said, kind


def check(target, name):
  """Loads it, and compares."""
  import torch

  found = tiny.golden(name, tiny.HEADS)
  net, said, kind = _loaded(target / name)
  mask_BT = found["mask_BT"]
  place_BT = np.maximum(mask_BT.cumsum(1) - 1, 0)
  if kind.startswith("Roberta"):
    place_BT = place_BT + said["pad_token_id"] + 1
  tensor, more = torch.from_numpy, {"position_ids": torch.from_numpy(place_BT)}
  if said.get("is_encoder_decoder"):
    more = {}  # it shifts its source itself
  if "type_BT" in found:
    more["token_type_ids"] = tensor(found["type_BT"])
  with torch.no_grad():
    out = net(
      tensor(found["ids_BT"]),
      attention_mask=tensor(mask_BT),
      **more,
    )
  if "start_logits" in out:
    numbers = torch.stack([out.start_logits, out.end_logits], -1)
  else:
    numbers = out.logits
  apart = np.abs(numbers.numpy() - found["numbers"])
  if apart.ndim == 3:
    apart = apart[mask_BT.astype(bool)]
  names = list(net.config.id2label.values())
  if not name.endswith("_span") and len(names) == 3:
    assert names == ["good", "fair", "bad"], names
  print(f"{name}: {apart.max():.1e} as {kind}")
  assert apart.max() < 1e-12, name


def write_reward(target):
  """Trains a reward model for some steps, exports it, and asks it."""
  from tests import command, normalising_test
  from tests.interop import rewards_test

  rows = map(json.dumps, normalising_test.ROWS)
  command.text_file(target, "rows.jsonl", rows)
  said = normalising_test.train(target, "ranking")
  assert said.code == 0, said.err
  run, to = target / "ranking", target / REWARD
  said = command.call(
    "export",
    f"--workdir={run}",
    f"--to={to}",
    experiment=rewards_test.RANKING,
  )
  assert said.code == 0, said.err
  told = {
    "rewards": rewards_test.judged(run, ASKED).tolist(),
    "whole": rewards_test.judged(f"hf:{to}", ASKED).tolist(),
    "line": json.loads((run / "reward.json").read_text()),
  }
  (target / "told.json").write_text(json.dumps(told))
  print(f"{REWARD}: trained and written")


def check_reward(target):
  """Rewards of answers, padded on either side."""
  import torch
  import transformers

  told = json.loads((target / "told.json").read_text())
  net, said, kind = _loaded(target / REWARD)
  tokenizer = transformers.AutoTokenizer.from_pretrained(target / REWARD)
  whole = [
    tokenizer.apply_chat_template(
      [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
      ],
      return_dict=True,
    )["input_ids"]
    for prompt, completion in ASKED
  ]
  before = [ids[:-1] for ids in whole]  # as its card says
  bias = told["line"]["bias"]
  for rows, wanted, added in (
    (before, told["rewards"], bias),
    (whole, told["whole"], 0.0),
  ):
    for left in (True, False):
      length = 2 + max(map(len, rows))
      ids, mask = np.full((2, len(rows), length), said["pad_token_id"])
      mask[:] = 0
      for i, row in enumerate(rows):
        part = slice(length - len(row), None) if left else slice(len(row))
        ids[i, part], mask[i, part] = row, 1
      with torch.no_grad():
        out = net(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
      apart = np.abs(out.logits.numpy()[:, 0] + added - wanted).max()
      side = "left" if left else "right"
      print(f"{REWARD}: {apart:.1e} as {kind}, padded on the {side}")
      assert apart < 2e-5
