"""All families, and which of them a folder holds."""

import difflib

from llm_jax.interop import (
  bart,
  bert,
  gemma,
  gpt2,
  heads,
  llama,
  modernbert,
  olmo2,
  phi3,
  t5,
)
from llm_jax.interop.family import Family, Keys, Settings
from llm_jax.interop.folder import Folder

FAMILIES = (
  *(llama.FAMILY, gpt2.FAMILY, gemma.FAMILY, olmo2.FAMILY, phi3.FAMILY),
  *(bert.BERT, bert.ROBERTA, modernbert.FAMILY, t5.FAMILY, bart.FAMILY),
)

# Ends of names of models with a head for tokens.
_HEADED = ("LM", "LMHeadModel", "ForConditionalGeneration")


def of(folder: Folder) -> Family:
  """The table of a folder; ValueError where there is none for it."""
  name = folder.architecture
  for family in FAMILIES:
    if name in (*family.architectures, *family.heads):
      return family
  raise ValueError(
    f"{folder.given}: config.json has the architecture"
    f" {name or 'none'!r:.60}{_near(name)}"
  )


def _near(name: str) -> str:
  """The architectures most like another, and what all of them are of."""
  stems = {
    architecture: heads.stem(family, architecture)
    for family in FAMILIES
    for architecture in (*family.architectures, *family.heads)
  }
  own = [a for a, stem in stems.items() if name.removeprefix(stem)[:3] == "For"]
  near = difflib.get_close_matches(name, own or stems, 3, 0.0 if own else 0.6)
  said = f"; nearest are {', '.join(near)}" if near else ""
  return (
    f"{said}; known are those of {', '.join(dict.fromkeys(stems.values()))}"
  )


def settings(folder: Folder) -> Settings:
  """Our settings of the model in a folder.

  Raises:
    ValueError: an unknown architecture, or a key that is refused.
  """
  family = of(folder)
  keys = Keys(folder.config, folder.given)
  found = family.settings(keys)
  if head := heads.settings(family, folder):
    found |= head
  elif not folder.architecture.endswith(_HEADED):
    found["tied"] = True  # no head at all
  elif family.own_head and family.own_head not in folder.tensors():
    found["tied"] = True
  keys.check()
  return found
