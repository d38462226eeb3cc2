"""`python -m featot_cli` is `featot`."""

from featot_cli.main import main

main()
