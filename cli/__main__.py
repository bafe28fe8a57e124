"""`python -m cli` is `everhook`."""

from cli.main import main

if __name__ == "__main__":
    main()
