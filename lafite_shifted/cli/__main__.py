"""`python -m lafite_shifted.cli`, as torchrun starts it."""

from lafite_shifted.cli.main import main

main()
