"""`python -m launch TARGET --name=... -- experiments.NAME VERB --flags`."""

import sys

from launch import cli

if __name__ == "__main__":
  sys.exit(cli.main(sys.argv))
