"""Every kind of family and every objective, of the smallest size."""

import dataclasses
import json
import pathlib

from llm_jax.data.conversations import Conversations
from llm_jax.data.denoisers import Masked, Mixture, PrefixLM, Spans
from llm_jax.data.example_sources import ExampleFiles
from llm_jax.data.examples import Examples
from llm_jax.data.files import Files
from llm_jax.data.instructions import Instructions
from llm_jax.data.passage_sources import PassageFiles
from llm_jax.data.passages import Passages
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.data.sides import SourceSide
from llm_jax.data.tag_sources import TagFiles
from llm_jax.data.tags import Tags
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment, Samples, SelfPlay, Validation
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.function import Function
from llm_jax.models.config import Experts, TransformerConfig
from llm_jax.models.encoder_decoder_config import Encoder, EncoderDecoderConfig
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.objectives import (
  dpo,
  group,
  kto,
  separate,
  transport,
  unreferenced,
)
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.multi_label import MultiLabel
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.ranking import Ranking
from llm_jax.objectives.regression import Regression
from llm_jax.objectives.spans import Spans as Answers
from llm_jax.objectives.tagging import Tagging
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training.optimizers import AdamW
from llm_jax.training.refresh import Refresh
from llm_jax.training.schedules import Schedule
from tests import command, drawing

_SMALL = {"num_layers": 1, "embed_dim": 8, "max_length": 32}
_WIDE = _SMALL | {"mlp_dim": 8, "num_heads": 2}
KINDS = {
  "decoder": TransformerConfig(**_WIDE),
  "experts": TransformerConfig(**_WIDE, experts=Experts(num=4, z_loss=1e-3)),
  "encoder": TransformerConfig(
    **_WIDE,
    sees="all",
    norm="layer",
    norm_at="sum",
    positions="learned",
    activation="gelu_exact",
    head_dense=True,
  ),
  "encoder-decoder": EncoderDecoderConfig(
    **_WIDE,
    positions="relative",
    relative_buckets=8,
    relative_distance=6,
    tied=False,
    encoder=Encoder(mlp_dim=16),
  ),
  "recurrent": RecurrentConfig(**_SMALL),
  "recurrent encoder-decoder": RecurrentEncoderDecoderConfig(**_SMALL),
}
MESHES = dict.fromkeys(KINDS, MeshShape(2, 2, 2)) | {
  "experts": MeshShape(data=2, expert=2, tensor=2)
}
LETTERS = "abcdefgh"


def write(home: pathlib.Path) -> None:
  """The data, once."""
  command.text_file(home)
  pairs = [(x, y) for x in LETTERS for y in LETTERS]
  asked = [{"prompt": x + y, "completion": y + x} for x, y in pairs]
  judged = [
    {"prompt": x + y, "chosen": y, "rejected": x} for x, y in pairs if x != y
  ]
  labels = {
    "classes": lambda x, y: "ab"[x < y],
    "class_sets": lambda x, y: ["a"] * (x < y) + ["b"] * (y > "d"),
    "numbers": lambda x, y: (ord(x) - ord(y)) / 7,
  }
  told = {
    name: [{"text": x + y, "label": of(x, y)} for x, y in pairs]
    for name, of in labels.items()
  }
  tagged = [{"words": [x, y], "tags": ["O", "B-A"]} for x, y in pairs]
  passages = [
    {
      "id": x + y,
      "question": x,
      "context": f"{x} {y}",
      "answers": [{"text": y, "answer_start": 2}],
    }
    for x, y in pairs
  ]
  rows_of = {"answers": asked, "judged": judged, **told}
  rows_of |= {"tagged": tagged, "passages": passages}
  for name, rows in rows_of.items():
    command.text_file(home, f"{name}.jsonl", map(json.dumps, rows))
  drawing.lively(home)


def text(home, what=None, sides=False):
  more = {} if what is None else {"corruption": what}
  if sides:
    more |= {"source": SourceSide(length=24)}
  return Text(
    sources=(Files((str(home / "text.txt"),), split_by="line"),),
    length=16,
    cache=str(home / "cache"),
    **more,
  )


def answers(home, sides=False):
  more = {"source": SourceSide(length=16)} if sides else {}
  return Instructions(
    sources=(Conversations(paths=(str(home / "answers.jsonl"),)),),
    length=16,
    cache=str(home / "cache"),
    **more,
  )


def judged(home, rows="pairs", sides=False):
  more = {"source": SourceSide(length=16)} if sides else {}
  return Preferences(
    sources=(PreferenceFiles(paths=(str(home / "judged.jsonl"),)),),
    rows=rows,
    length=16,
    widths=1,
    completions=2,
    cache=str(home / "cache"),
    **more,
  )


def told(home, objective, rows, outputs, sides=False):
  """Texts, and what is told of each."""
  more = {"source": SourceSide(length=8)} if sides else {}
  return {
    "objective": objective,
    "data": Examples(
      sources=(ExampleFiles(paths=(str(home / f"{rows}.jsonl"),)),),
      rows=rows,
      length=8,
      widths=1,
      cache=str(home / "cache"),
      **more,
    ),
    "model": {"outputs": outputs},
  }


def tagged(home, sides=False):
  more = {"source": SourceSide(length=8)} if sides else {}
  return {
    "objective": Tagging(),
    "data": Tags(
      sources=(TagFiles(paths=(str(home / "tagged.jsonl"),)),),
      classes=("O", "B-A"),
      length=8,
      widths=1,
      cache=str(home / "cache"),
      **more,
    ),
    "model": {"outputs": 2},
  }


def passages(home, sides=False):
  more = {"source": SourceSide(length=16)} if sides else {}
  return {
    "objective": Answers(),
    "data": Passages(
      sources=(PassageFiles(paths=(str(home / "passages.jsonl"),)),),
      length=16,
      overlap=2,
      widths=1,
      none_at="last",
      cache=str(home / "cache"),
      **more,
    ),
    "model": {"outputs": 2},
  }


def draws(home, objective, **changes):
  """Every step learns from what it draws itself."""
  its = {"batch": 8, "epochs": 1, "max_new_tokens": 4, "max_prompt": 12}
  return {
    "objective": objective,
    "data": answers(home),
    "judge": Function(f"{home}/lively.py:score"),
    "rollouts": Rollouts(**its | changes, widths=1, packing=0),
  }


_MIXED = Mixture((Spans(), PrefixLM()), (), ("R", "S"))
# One of each family of losses on pairs.
_PAIRS = unreferenced.Sum(
  (dpo.DPO(), separate.NCA(), unreferenced.SimPO(), transport.AOT()),
  (1.0, 0.9, 0.8, 0.7),
)
# Name -> settings, of the folder that holds the data and of whether a model
# reads sources of their own. Those of the model are named "model". Some draw
# dropout and keep averages, which are part of what is resumed. Without dropout
# a policy would begin as its reference, and which of two equal completions is
# said to be better be a matter of rounding.
_DROPS = {"model": {"dropout": 0.1}}
_DRAWN = _DROPS | {"average": 0.9}
OBJECTIVES = {
  "causal": lambda home, apart: {"data": text(home)} | _DRAWN,
  "masked": lambda home, apart: {"data": text(home, Masked(rate=0.3))},
  "spans": lambda home, apart: {"data": text(home, Spans(), apart)},
  "prefix": lambda home, apart: {
    "data": text(home, PrefixLM(), apart),
    "model": {"sees": "prefix"},
  },
  "mixture": lambda home, apart: {"data": text(home, _MIXED, apart)} | _DRAWN,
  "sft": lambda home, apart: {"data": answers(home, apart)},
  "pairs": lambda home, apart: {
    **_DROPS,
    "objective": _PAIRS,
    "data": judged(home, sides=apart),
  },
  "spin": lambda home, apart: {
    **_DROPS,
    "objective": dpo.DPO(),
    "data": judged(home, sides=apart),
    "self_play": SelfPlay(max_new_tokens=4),
    "refresh": Refresh(every=1, mix=0.5),
  },
  "kto": lambda home, apart: {
    **_DROPS,
    "objective": kto.KTO(),
    "data": judged(home, "labels", apart),
  },
  "ranking": lambda home, apart: {
    "objective": Ranking(),
    "data": judged(home, "rankings", apart),
    "model": {"outputs": 1},
  },
  "classes": lambda home, apart: {
    "objective": Classification(),
    "data": judged(home, "classes", apart),
    "model": {"outputs": 2},
  },
  "text classes": lambda home, apart: told(
    home, Classification(), "classes", 2, apart
  ),
  "sets": lambda home, apart: told(home, MultiLabel(), "class_sets", 2, apart),
  "numbers": lambda home, apart: told(home, Regression(), "numbers", 1, apart),
  "tags": lambda home, apart: tagged(home, apart),
  "passages": lambda home, apart: passages(home, apart),
  "ppo": lambda home, apart: draws(home, PPO()) | {"model": {"outputs": 1}},
  "grpo": lambda home, apart: draws(home, group.grpo(4)),
  "online dpo": lambda home, apart: draws(home, dpo.DPO(), batch=16, pair_of=4),
}


def experiment(home: pathlib.Path, kind: str, objective: str) -> Experiment:
  """A cell of the matrix; two steps of eight rows on one device."""
  model = KINDS[kind]
  its = OBJECTIVES[objective](home, model.reads_sources)
  own = dict(its.pop("model", {}))
  if kind == "encoder" and isinstance(its["data"], Examples):
    its["data"] = dataclasses.replace(its["data"], read_at="first")
  if kind == "encoder" and isinstance(its["data"], Passages):
    its["data"] = dataclasses.replace(its["data"], none_at="first")
  if getattr(model, "sees", "") != "before" or model.reads_sources:
    own.pop("sees", None)  # it has a sight of its own
  return dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(model, **own),
    tokenizer=Bytes(extra_ids=8),
    optimizer=AdamW(peak=1e-2, schedule=Schedule("constant", warmup=0)),
    mesh=MeshShape(1, 1, 1),
    validation=Validation(every=0),
    samples=Samples(every=0),
    **its,
  )
