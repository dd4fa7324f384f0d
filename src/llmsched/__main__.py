"""`python -m llmsched`, the same as the `llmsched` command."""

from llmsched_command import main

main()
