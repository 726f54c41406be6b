"""``python -m snnconv`` is the command line."""

from snnconv.cli.main import main

main(prog_name="snnconv")
