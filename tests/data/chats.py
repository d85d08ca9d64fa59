"""Small conversations in every form they come in, for tests."""

import gzip
import json

from llm_jax.data import prepared
from llm_jax.data.conversation import Conversation, Message

TURNS = (("user", "Hallo?"), ("assistant", " Ja,\n\tgerne. "))
MESSAGES = [{"role": r, "content": c} for r, c in TURNS]


def plain(items, total=None, label=""):
  yield from items


def talk(*contents, system="", **kwargs):
  """A conversation whose turns are the user's and the assistant's."""
  roles = ("user", "assistant")
  turns = [Message(roles[i % 2], c) for i, c in enumerate(contents)]
  first = [Message("system", system)] if system else []
  return Conversation((*first, *turns), **kwargs)


def jsonl(path, rows, opened=open):
  with opened(path, "wt", encoding="utf-8") as f:
    for row in rows:
      f.write(json.dumps(row) + "\n")
  return path


def packed(path, rows):
  return jsonl(path, rows, gzip.open)


def tfds_folder(home, examples, features, called="chats"):
  """A prepared TFDS dataset; `features` maps the library to features."""
  lib = prepared.tfds()

  class Builder(lib.core.GeneratorBasedBuilder):
    name = called
    VERSION = lib.core.Version("1.0.0")

    def _info(self):
      info = lib.core.DatasetInfo(
        builder=self,
        features=lib.features.FeaturesDict(features(lib.features)),
        disable_shuffling=True,
      )
      info.initialize_from_bucket = lambda: None
      return info

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      yield from enumerate(examples)

  builder = Builder(data_dir=str(home), file_format="array_record")
  config = lib.download.DownloadConfig(try_download_gcs=False)
  builder.download_and_prepare(download_config=config)
  return str(builder.data_path)
