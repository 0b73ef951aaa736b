"""Entry point of the command: answers --version at once, hands everything else to the command line."""

import sys

from nestbed import __version__


def main() -> None:
    """Run the command line with sys.argv; the process ends with its exit code.

    The version is answered before anything heavy is imported: typer and Trio cost a fifth of a second.
    """
    if sys.argv[1:] in (["--version"], ["-V"], ["version"]):
        print(f"nestbed {__version__}")
        return
    from actors.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
