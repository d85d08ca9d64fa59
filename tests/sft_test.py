"""Instruction tuning by the command line: what is done, and what is refused."""

import dataclasses
import json

import pytest

from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from tests import command

ROWS = [{"prompt": f"{i}?", "completion": f"{i}!"} for i in range(60)]
EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  data=Instructions(sources=(Conversations(),), length=16, validation=0.2),
)


def write(folder, rows):
  lines = map(json.dumps, rows)
  return command.text_file(folder, "rows.jsonl", lines)


def train(folder, *flags):
  return command.call(
    "train",
    *command.train_flags(folder, folder / "rows.jsonl"),
    *flags,
    experiment=EXPERIMENT,
  )


def losses(folder):
  lines = (folder / "run/metrics.jsonl").read_text().splitlines()
  rows = map(json.loads, lines)
  return [(r["step"], r["split"], r["loss"], r["tokens"]) for r in rows]


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path):
  for name, steps in (("once", (4,)), ("twice", (2, 4))):
    folder = tmp_path / name
    folder.mkdir()
    write(folder, [*ROWS, {"prompt": "long", "completion": "c" * 20}])
    for n in steps:
      said = train(folder, f"--steps={n}", "--data.too_long=drop")
      assert said.code == 0, said.err
      assert "--data.length=16: 1 of " in said.err
      assert said.err.count("they are dropped") == 1
  once, twice = losses(tmp_path / "once"), losses(tmp_path / "twice")
  assert once == twice and len(once) > 4
  # Answers and what ends them, not prompts.
  assert all(8 * 2 <= r[3] < 8 * 16 / 2 for r in once if r[1] == "train")


def turns(*roles):
  return {"messages": [{"role": r, "content": "x"} for r in roles]}


WRONG = {
  "role": ((turns("user", "bot"),), "rows.jsonl:2: messages[1] has the unkn"),
  "no turn": ((turns("user"),), "rows.jsonl:2: field 'messages' holds no turn"),
  "fields": (({"q": "a"},), "rows.jsonl:2: fields q are of no known format"),
  "too long": (
    ({"prompt": "a", "completion": "c" * 40},),
    "1 of 2 conversations of the train split are longer, the longest 45 tokens;"
    " raise it, or set --data.too_long=cut or drop",
  ),
  "several answers": (
    (turns("user", "assistant", "user", "assistant"),),
    "--model.sees=prefix: 1 conversations of --data have several answers",
    "--model.sees=prefix",
    "--data.length=32",
  ),
  "absent field": (
    ({"answer": "a"},),
    "the template '{name}, {verb}!' names the field 'verb', which is absent;"
    " fields here: name, answer",
    "--data.sources.0.prompt={name}, {verb}!",
    "--data.sources.0.answer=answer",
  ),
  "task": (
    (ROWS[0],),
    "--data.sources.0.task=poem: one of classification,",
    "--data.sources.0.task=poem",
  ),
  "template": (
    (ROWS[0],),
    "--data.template=nice: one of chat, plain",
    "--data.template=nice",
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line(case, tmp_path):
  rows, want, *flags = WRONG[case]
  first = {"name": "a", "answer": "b"} if "absent" in case else ROWS[1]
  write(tmp_path, [first, *rows])
  said = train(tmp_path, "--data.validation=0", "--validation.every=0", *flags)
  assert said.code == 2
  assert want in said.error
  assert not list((tmp_path / "cache").rglob("*.partial"))
