r"""BERT learns to answer questions by spans of a text: SQuAD v1.1 and v2.0.

Devlin et al. 2018, arXiv:1810.04805, sections 4.2 and 4.3, on the files of
Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822:

  python -m experiments.squad_bert_base train \
      --init_from=hf:bert-base-uncased \
      --data.sources.0.paths=train-v2.0.json \
      --data.sources.1.paths=dev-v2.0.json
  python -m experiments.squad_bert_base evaluate \
      --data.sources.0.paths=train-v2.0.json \
      --data.sources.1.paths=dev-v2.0.json

`predictions/data.json` and `predictions/data.none.json` of the run are what the
official script reads. RoBERTa has two tokens between question and text:
--data.between=2. The folder is as downloaded, and its shape replaces --model's.
One GPU of 16 GB; not run yet: `plan` says what it needs. The paper has an F1 of
88.5 on the development set of v1.1.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.passage_sources import PassageFiles
from llm_jax.data.passages import Passages
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.objectives.spans import Spans
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=dataclasses.replace(
    presets.bert_base(), outputs=2, output_bias=True, dropout=0.1
  ),
  objective=Spans(),
  data=Passages(
    sources=(PassageFiles(into="train"), PassageFiles(into="validation")),
    none_at="first",
  ),
  optimizer=AdamW(
    peak=3e-5, schedule=Schedule("linear", warmup=800), weight_decay=0.01
  ),
  steps=8200,  # two epochs of v2.0
  batch_size=32,
  checkpoints=Checkpoints(every=1000),
  validation=Validation(every=1000, batches=20, baselines=False),
  samples=Samples(every=0),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
