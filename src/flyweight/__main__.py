"""Run the command line by ``python -m flyweight``."""

from flyweight.cli import main

if __name__ == "__main__":
    main()
