"""All families, and which of them a folder holds."""

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
  known = ", ".join(
    a for family in FAMILIES for a in (*family.architectures, *family.heads)
  )
  raise ValueError(
    f"{folder.given}: config.json has the architecture {name or 'none'!r};"
    f" known are {known}"
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
