r"""BERT learns to tell what a task of GLUE asks of its texts.

The tasks of GLUE (arXiv:1804.07461), fine-tuned whole as in Devlin et al. 2018,
arXiv:1810.04805, section 4.1; SST-2 as it stands, from its own files:

  python -m experiments.classify_bert_glue train \
      --init_from=hf:bert-base-uncased \
      --data.sources.0.paths=SST-2/train.tsv \
      --data.sources.1.paths=SST-2/dev.tsv

Of pairs, such as MNLI, with three classes by name:

  ... --data.sources.0.paths=MNLI/train.tsv \
      --data.sources.1.paths=MNLI/dev_matched.tsv \
      --data.sources.0.text=sentence1 --data.sources.0.text_pair=sentence2 \
      --data.sources.0.label=gold_label --data.sources.1.text=sentence1 \
      --data.sources.1.text_pair=sentence2 --data.sources.1.label=gold_label \
      --data.classes=contradiction,entailment,neutral --model.outputs=3

RoBERTa has two tokens between a pair: --data.between=2. The folder is as
downloaded, and its shape replaces --model's. One GPU of 16 GB; not run yet:
`plan` says what it needs. The paper has 93.5% on the test set of SST-2, and
84.6% on that of MNLI.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.example_sources import ExampleFiles
from llm_jax.data.examples import Examples
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.objectives.classification import Classification
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=dataclasses.replace(
    presets.bert_base(),
    outputs=2,
    output_bias=True,
    output_dense="tanh",
    dropout=0.1,
  ),
  objective=Classification(),
  data=Examples(
    sources=(
      ExampleFiles(text="sentence", into="train"),
      ExampleFiles(text="sentence", into="validation"),
    ),
    length=128,
    too_long="cut",
    read_at="first",
  ),
  optimizer=AdamW(
    peak=2e-5, schedule=Schedule("linear", warmup=600), weight_decay=0.01
  ),
  steps=6300,  # three epochs of SST-2
  batch_size=32,
  checkpoints=Checkpoints(every=1000),
  validation=Validation(every=1000, batches=0, baselines=False),
  samples=Samples(every=0),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
