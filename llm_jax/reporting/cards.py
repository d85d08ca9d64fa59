"""README.md of an exported model: what it is, of what, how good, how to use."""

import json
from typing import Any

_GENERATE = """\
from transformers import AutoTokenizer, KIND

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = KIND.from_pretrained("FOLDER")
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids)[0]))"""
_ANSWER = """\
from transformers import AutoTokenizer, KIND

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = KIND.from_pretrained("FOLDER")
inputs = tokenizer.apply_chat_template(
  [{"role": "user", "content": "a question"}],
  add_generation_prompt=True,
  return_dict=True,
  return_tensors="pt",
)
print(tokenizer.decode(model.generate(inputs.input_ids)[0]))"""
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


def _tell(kind: str, texts: str = '"a text"') -> str:
  return _TELL.replace("KIND", kind).replace("TEXTS", texts)


_WRITERS = {  # end of an architecture's name -> the task, and the class
  "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
  "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
  "ForConditionalGeneration": (
    "text2text-generation",
    "AutoModelForSeq2SeqLM",
  ),
}
# End of an architecture's name -> the task, and what is done with it.
_TASKS = {
  **{
    end: (task, _GENERATE.replace("KIND", kind))
    for end, (task, kind) in _WRITERS.items()
  },
  "ForMaskedLM": ("fill-mask", _tell("AutoModelForMaskedLM")),
  "ForTokenClassification": (
    "token-classification",
    _tell("AutoModelForTokenClassification"),
  ),
  "ForQuestionAnswering": (
    "question-answering",
    _tell("AutoModelForQuestionAnswering", '"a question", "a text"'),
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
  task, use = "feature-extraction", _tell("AutoModel")
  for end, its in _TASKS.items():
    if architecture.endswith(end):
      task, use = its
  for end, (_, kind) in _WRITERS.items():
    if chats and architecture.endswith(end):
      use = _ANSWER.replace("KIND", kind)
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
