"""Pairs of texts as transformers' tokenizers of BERT and RoBERTa frame them.

Cut by "longest_first", as the fast ones do it. Needs
transformers; run by hand, the ids are kept beside it:

  python tests/goldens/make_framing.py
"""

import base64
import json
import pathlib
import tempfile

import transformers

HERE = pathlib.Path(__file__).parent
PAIRS = [
  ("the cat sat on the mat", "who sat there?"),
  ("who?", "the cat sat on the mat and the dog stood by"),
  ("one two three four", "five six seven eight"),
  ("alone on a mat", None),
]
KINDS = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer"}


def main() -> None:
  files = json.loads((HERE / "tokenizers.json").read_text(encoding="utf-8"))
  out = {"pairs": PAIRS, "transformers": transformers.__version__}
  for name in [n for n in KINDS if n in files]:
    with tempfile.TemporaryDirectory() as folder:
      for file, data in files[name]["files"].items():
        (pathlib.Path(folder) / file).write_bytes(base64.b64decode(data))
      its = getattr(transformers, KINDS[name]).from_pretrained(folder)
      out[name] = [
        {
          "ids": said["input_ids"],
          "types": said.get("token_type_ids"),
          "length": length,
        }
        for length in (64, 12)
        for a, b in PAIRS
        for said in [
          its(
            a,
            b,
            truncation="longest_first",
            max_length=length,
            return_token_type_ids=name == "bert",
          )
        ]
      ]
  path = HERE / "framing.json"
  path.write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
