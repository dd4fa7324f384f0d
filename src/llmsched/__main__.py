"""`python -m llmsched`, the same as the `llmsched` command."""

from llmsched.cli import main

main()
