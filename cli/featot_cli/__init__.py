"""The command `featot`: parses, calls featot, shows. No mathematics."""
