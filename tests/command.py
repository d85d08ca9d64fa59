"""The command line, called in this process, on the smallest experiment."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import signal
from typing import NamedTuple
from unittest import mock

from benchmarks import sameness
from llm_jax import cli, host
from llm_jax.data.conversations import Conversations
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment, Log, Samples, Validation
from llm_jax.models.config import TransformerConfig
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.tokenizers.sentencepiece import SentencePiece

# Rows divide by the eight simulated devices.
EXPERIMENT = Experiment(
  model=TransformerConfig(
    num_layers=1, embed_dim=8, mlp_dim=8, num_heads=2, max_length=32
  ),
  tokenizer=Bytes(),
  data=Text(sources=(Files(split_by="line"),), length=16, validation=0.2),
  steps=2,
  batch_size=8,
  log=Log(every=1, tensorboard=False),
  validation=Validation(every=2, batches=1),
  samples=Samples(every=2, max_new_tokens=4),
)
PIECES = dataclasses.replace(
  EXPERIMENT, tokenizer=SentencePiece(vocab_size=280)
)
LINES = [f"line {i} of a small text about {i * i}" for i in range(100)]
WORDS = "one two three four five six seven eight nine ten".split()


class Said(NamedTuple):
  """What a command left."""

  code: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """The one line of an error; fails if there is none, or more."""
    lines = self.err.splitlines()
    errors = [i for i, x in enumerate(lines) if x.startswith("error: ")]
    assert errors == [len(lines) - 1], self.err
    assert "Traceback" not in self.err
    return lines[-1]


def call(*args, experiment=EXPERIMENT, name="smallest"):
  """Exit code, stdout and stderr of `python -m experiments.NAME ARGS`."""
  out, err = io.StringIO(), io.StringIO()
  on_term = signal.getsignal(signal.SIGTERM)
  try:
    with (
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
      mock.patch.object(host, "keep_memory"),
      mock.patch("sys.stdin", io.StringIO("")),
    ):
      code = cli.main(experiment, [name, *map(str, args)], name)
  finally:
    signal.signal(signal.SIGTERM, on_term)
  return Said(code, out.getvalue(), err.getvalue())


def text_file(folder: pathlib.Path, name="text.txt", lines=LINES):
  """A small text in a file."""
  path = folder / name
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


def answers(folder: pathlib.Path):
  """Questions of two words, each answered by the two turned round."""
  rows = [
    json.dumps({"prompt": f"say {w} {v}", "completion": f"{v} {w}"})
    for w in WORDS
    for v in WORDS
  ]
  path = text_file(folder, "answers.jsonl", rows)
  return Conversations(paths=(str(path),))


def train(experiment, folder: pathlib.Path):
  """What a run leaves that has come to its end, see `sameness.content`."""
  said = call("train", f"--workdir={folder}", experiment=experiment)
  assert said.code == 0, said.err
  return sameness.content(folder)


def train_flags(folder: pathlib.Path, path=None):
  """Flags of a run that keeps to one folder."""
  path = path or text_file(folder)
  return [
    f"--workdir={folder / 'run'}",
    f"--data.cache={folder / 'cache'}",
    f"--data.sources.0.paths={path}",
  ]


def made_once(tmp_path_factory, name: str, make):
  """A folder that `make` fills, by one of the workers; not to be changed."""
  base = tmp_path_factory.getbasetemp()
  shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
  folder = shared / name
  with (shared / f"{name}.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (folder / "done").exists():
      folder.mkdir(exist_ok=True)
      make(folder)
      (folder / "done").touch()
  return folder


def trained(tmp_path_factory):
  """A folder in which a run of two steps has ended; to be copied, not used."""

  def make(folder):
    said = call("train", *train_flags(folder))
    assert said.code == 0, said.err

  return made_once(tmp_path_factory, "trained", make)


def snapshot(folder: pathlib.Path):
  """{path: bytes} of all files under a folder; None for a folder."""
  if not folder.exists():
    return None
  return {
    p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None
    for p in sorted(folder.rglob("*"))
  }


def refused(folder, *args, experiment=EXPERIMENT, **kwargs):
  """The error of a command that must not leave anything in `folder`/run."""
  run = folder / "run"
  before = snapshot(run)
  said = call(*args, experiment=experiment, **kwargs)
  assert said.code == 2, said
  assert not said.out
  assert snapshot(run) == before
  assert not list((folder / "cache").rglob("*.partial"))
  return said.error


def flags_in(home: pathlib.Path, name: str):
  """Of a run in a folder that its text and cache lie in, too."""
  text = home / "text.txt"
  path = text if text.exists() else text_file(home)
  _, *others = train_flags(home, path)
  return [f"--workdir={home / name}", *others]


def train_in(home: pathlib.Path, name: str, *more, experiment):
  """What such a run leaves when it has come to its end."""
  said = call("train", *flags_in(home, name), *more, experiment=experiment)
  assert said.code == 0, said.err
  return sameness.content(home / name)
