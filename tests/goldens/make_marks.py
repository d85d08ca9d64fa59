"""Losses of transformers' heads for words and spans, and seqeval's figures.

Needs transformers with torch, and seqeval; run by hand, each where it is there,
the numbers are kept beside it:

  python tests/goldens/make_marks.py
"""

import importlib.util
import json
import pathlib
import random
from typing import Any

PATH = pathlib.Path(__file__).parent / "marks.json"


def losses() -> dict[str, Any]:
  """Of small BERTs whose heads see the given logits."""
  import numpy as np
  import torch
  import transformers
  from transformers import modeling_outputs

  class Given(torch.nn.Module):
    """Stands for the body: what it hands on are the logits."""

    def __init__(self, logits: Any):
      super().__init__()
      self.logits = logits

    def forward(self, *_: Any, **__: Any) -> Any:
      return modeling_outputs.BaseModelOutput(last_hidden_state=self.logits)

  def run(kind: str, logits: Any, **labels: Any) -> dict[str, Any]:
    size = logits.shape[-1]
    config = transformers.BertConfig(
      hidden_size=size,
      num_hidden_layers=1,
      num_attention_heads=1,
      intermediate_size=2,
      vocab_size=4,
      num_labels=size,
      hidden_dropout_prob=0.0,
    )
    model = getattr(transformers, f"BertFor{kind}")(config).double().eval()
    head = model.qa_outputs if "Question" in kind else model.classifier
    head.weight.data = torch.eye(size, dtype=torch.float64)
    head.bias.data.zero_()
    x = torch.tensor(logits, requires_grad=True)
    model.bert = Given(x)
    ids = torch.zeros(logits.shape[:2], dtype=torch.long)
    loss = model(ids, **{n: torch.tensor(i) for n, i in labels.items()}).loss
    loss.backward()
    return {"loss": loss.item(), "gradient": x.grad.tolist()}

  r = np.random.default_rng(0)
  logits, tag = 3 * r.normal(size=(4, 6, 3)), r.integers(0, 3, (4, 6))
  logits[0, 0] = [400, -400, 0]  # where an exponential overflows
  counts = r.random((4, 6)) < 0.5
  spans = 3 * r.normal(size=(4, 6, 2))
  start, end = np.array([0, 2, 4, 1]), np.array([0, 3, 4, 5])
  allowed = np.array(
    [[1] * 6, [1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1]] + [[1] * 6]
  )
  least = np.finfo(np.float64).min
  inside = np.where(allowed[..., None] > 0, spans, least)
  return {
    "transformers": transformers.__version__,
    "tagging": {
      "logits": logits.tolist(),
      "tag": tag.tolist(),
      "mask": counts.tolist(),
      **run("TokenClassification", logits, labels=np.where(counts, tag, -100)),
    },
    "spans": {
      "logits": spans.tolist(),
      "start": start.tolist(),
      "end": end.tolist(),
      "mask": allowed.tolist(),
      "everywhere": run(
        "QuestionAnswering", spans, start_positions=start, end_positions=end
      ),
      "allowed": run(
        "QuestionAnswering", inside, start_positions=start, end_positions=end
      ),
    },
  }


def entities() -> dict[str, Any]:
  """Of random tags, as conlleval counts them and as IOB2 has them."""
  import seqeval
  from seqeval import metrics
  from seqeval.scheme import IOB2

  r = random.Random(0)
  names = ["O", "B-A", "I-A", "B-B", "I-B"]
  true = [
    r.choices(names, (3, 2, 2, 1, 1), k=r.randint(1, 9)) for _ in range(30)
  ]
  said = [
    [tag if r.random() < 0.7 else r.choice(names) for tag in tags]
    for tags in true
  ]
  how: dict[str, Any] = {"zero_division": 0}
  strict = how | {"mode": "strict", "scheme": IOB2}
  figures = lambda given: {
    "precision": float(metrics.precision_score(true, said, **given)),
    "recall": float(metrics.recall_score(true, said, **given)),
    "f1": float(metrics.f1_score(true, said, **given)),
    "each": {
      name: {k: float(x) for k, x in its.items()}
      for name, its in metrics.classification_report(
        true, said, output_dict=True, **given
      ).items()
      if len(name) == 1
    },
  }
  return {
    "seqeval": getattr(seqeval, "__version__", "1.2.2"),
    "true": true,
    "said": said,
    "accuracy": float(metrics.accuracy_score(true, said)),
    "conlleval": figures(how),
    "strict": figures(strict),
  }


def main() -> None:
  out = json.loads(PATH.read_text()) if PATH.exists() else {}
  if importlib.util.find_spec("transformers"):
    out["losses"] = losses()
  if importlib.util.find_spec("seqeval"):
    out["entities"] = entities()
  PATH.write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
