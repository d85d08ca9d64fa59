r"""Characters of Shakespeare, by nanoGPT's CPU recipe.

The text is tinyshakespeare (1,115,394 characters, karpathy/char-rnn); its
first 90% train, the last 10% validate.

  python -m experiments.pretrain_nano_shakespeare train \
      --data.sources.0.paths=input.txt

4 layers of 128, 0.8M parameters; a few minutes on 4 CPU cores. Expect a loss
of at most 1.91 nats a character over the whole validation text in windows of
64 (nanoGPT's README: 1.88, estimated on 20 random batches).
"""

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=presets.nano_shakespeare("cpu"),
  tokenizer=SentencePiece(kind="char", byte_fallback=False),
  data=Text(sources=(Files(),), length=64, split="position", validation=0.1),
  optimizer=AdamW(
    peak=1e-3, b2=0.99, schedule=Schedule("cosine", warmup=100, floor=0.1)
  ),
  steps=2000,
  batch_size=12,
  checkpoints=Checkpoints(every=500),
  validation=Validation(every=500, batches=0),
  samples=Samples(every=500, prompts=("\n",), max_new_tokens=48),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
