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


def card(
  name: str,
  licence: str,
  settings: dict[str, Any],
  evaluation: dict[str, Any],
  facts: dict[str, Any],
  architecture: str,
) -> str:
  """The model card, with the fields at its head that model hubs read.

  Args:
    name: of the experiment.
    licence: of the weights, as their owner says.
    settings: of the experiment, as JSON.
    evaluation: what `evaluate` measured, {} where it has not.
    facts: what else is known, by name.
    architecture: under which transformers knows it.
  """
  classifies = architecture.endswith("ForSequenceClassification")
  task = "text-classification" if classifies else "text-generation"
  measured = evaluation.get("results", {}).get("model", {})
  rows = [f"| {k} | {v:.6g} |" for k, v in measured.items()]
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
{_CLASSIFY if classifies else _GENERATE}
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
