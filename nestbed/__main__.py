"""Entry point of the command: what has to be quick is done here, the rest is handed to the command line."""

import sys

from nestbed import __version__


def main() -> None:
    """Run the command line with sys.argv; the process ends with its exit code.

    The version is answered and the console served before Typer and Trio are imported: they cost a fifth of a
    second.
    """
    if sys.argv[1:] in (["--version"], ["-V"], ["version"]):
        print(f"nestbed {__version__}")
        return
    if sys.argv[1:2] == ["console"]:
        from actors.console import main as console

        sys.exit(console(sys.argv[2:]))
    from actors.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
