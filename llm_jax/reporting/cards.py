"""README.md of an exported model: what it is, of what, how good, how to use."""

import json
from typing import Any

_GENERATE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids)[0]))"""
_CLASSIFY = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
inputs = tokenizer("a text", return_tensors="pt")
print(model(**inputs).logits)"""
_JUDGE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
said = [
  {"role": "user", "content": "a question"},
  {"role": "assistant", "content": "an answer"},
]
inputs = tokenizer.apply_chat_template(
  said, return_dict=True, return_tensors="pt"
)
# What is said of an answer is read before the token that ends it.
print(model(inputs.input_ids[:, :-1]).logits)"""
_FRAMED = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
ids = tokenizer("a text", add_special_tokens=False).input_ids
# As every text began and ended in training.
print(model(torch.tensor([[START, *ids, END]])).logits)"""
_TELL = """\
from transformers import AutoTokenizer, KIND

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = KIND.from_pretrained("FOLDER")
print(model(**tokenizer(TEXTS, return_tensors="pt")))"""
# End of an architecture's name -> the task, its class, and what it is given.
_TASKS = {
  "ForTokenClassification": (
    "token-classification",
    _TELL.replace("KIND", "AutoModelForTokenClassification").replace(
      "TEXTS", '"a text"'
    ),
  ),
  "ForQuestionAnswering": (
    "question-answering",
    _TELL.replace("KIND", "AutoModelForQuestionAnswering").replace(
      "TEXTS", '"a question", "a text"'
    ),
  ),
  "ForSequenceClassification": ("text-classification", _CLASSIFY),
}


def card(
  name: str,
  licence: str,
  settings: dict[str, Any],
  evaluation: dict[str, Any],
  facts: dict[str, Any],
  architecture: str,
  chats: bool = False,
  around: tuple[int, int] | None = None,
) -> str:
  """The model card, with the fields at its head that model hubs read.

  Args:
    name: of the experiment.
    licence: of the weights, as their owner says.
    settings: of the experiment, as JSON.
    evaluation: what `evaluate` measured, {} where it has not.
    facts: what else is known, by name.
    architecture: under which transformers knows it.
    chats: what it is asked about is a question with its answer.
    around: ids that its texts begin and end with; None = whatever.
  """
  task, use = "text-generation", _GENERATE
  for end, its in _TASKS.items():
    if architecture.endswith(end):
      task, use = its
  if chats and task == "text-classification":
    use = _JUDGE
  elif around and task == "text-classification":
    start, end = map(str, around)
    use = _FRAMED.replace("START", start).replace("END", end)
  measured = evaluation.get("results", {}).get("model", {})
  # In a file, what is not finite is a word: "inf".
  rows = [f"| {k} | {float(v):.6g} |" for k, v in measured.items()]
  metrics = "\n".join(["| measure | value |", "|---|---|", *rows])
  if not rows:
    metrics = "Nothing was measured; `evaluate` does."
  elif "checkpoint_step" in evaluation:
    metrics += f"\n\nMeasured after step {evaluation['checkpoint_step']}."
  told = "\n".join(f"- {k}: {v:,}" for k, v in facts.items())
  return f"""\
---
license: {licence}
library_name: transformers
pipeline_tag: {task}
---

# {name}

{architecture}, trained with llm_jax.

{told}

## How to use

```python
{use}
```

In a text, the name of a special token counts as that token.

## Metrics

{metrics}

## Data

```json
{json.dumps(settings.get("data", {}), indent=1)}
```

## Settings

```json
{json.dumps(_without(settings, "data"), indent=1)}
```
"""


def _without(settings: dict[str, Any], name: str) -> dict[str, Any]:
  """The settings but for one, and for where the run lay."""
  return {k: v for k, v in settings.items() if k not in (name, "workdir")}
