"""Ids that stand for no text: the first ones of every vocabulary."""

from llm_jax.contracts import Marks

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
ROLES = ("system", "user", "assistant", "end")
SPARE = 4
ROLE_IDS = {role: UNKNOWN + 1 + i for i, role in enumerate(ROLES)}
NAMES = (
  "<pad>",
  "<bos>",
  "<eos>",
  "<unk>",
  *(f"<{role}>" for role in ROLES),
  *(f"<spare_{i}>" for i in range(SPARE)),
)
COUNT = len(NAMES)
# What the spare ones are for: text that was taken away, and how (UL2).
MARKS = Marks(
  mask=COUNT - SPARE,
  modes={name: COUNT - SPARE + 1 + i for i, name in enumerate("RSX")},
)
