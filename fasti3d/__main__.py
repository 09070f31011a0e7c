"""``python -m fasti3d``: the command line."""

from fasti3d.cli import main

if __name__ == "__main__":
    main()
