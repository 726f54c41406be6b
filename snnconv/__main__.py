"""``python -m snnconv`` is the command line."""

from snnconv.cli import main

main(prog_name="snnconv")
