"""Command line: parse the arguments, call one public function, print a table or JSON."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; see `flyweight.cli.app.run`."""
    try:
        from flyweight.cli.app import run

        run()
    except KeyboardInterrupt:  # while modules are imported
        print("flyweight: stopped", file=sys.stderr)
        sys.exit(130)
