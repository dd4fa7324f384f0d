"""`python -m llmsched`, the same as the `llmsched` command."""

from llmsched.cli.main import main

main()
