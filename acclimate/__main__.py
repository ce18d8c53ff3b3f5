"""``python -m acclimate`` is ``acclimate``."""

from acclimate.cli import main

main()
