"""`python -m porter_ha.cli`."""

from porter_ha.cli import main

if __name__ == "__main__":
    main()
