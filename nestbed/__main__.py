"""Entry point of the command: what has to be quick is done here, the rest is handed to the command line."""

import errno
import io
import os
import sys

from nestbed import __version__

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def main() -> None:
    """Run the command line with sys.argv; the process ends with its exit code."""
    _open_what_is_closed()
    _buffer_what_is_not()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # while it was being read in: no command has begun
        sys.exit(130)
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is buffered would fail once more at the end
        sys.stderr.write(f"nestbed: standard output: {error.strerror}\n")
        sys.exit(3)


def _open_what_is_closed() -> None:
    """A shell's `>&-` leaves a descriptor free, and the next file that is opened would get it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _buffer_what_is_not() -> None:
    """With PYTHONUNBUFFERED nobody goes on with a write that a signal has cut short: its rest is lost."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        raw = getattr(stream, "buffer", None)
        if isinstance(raw, io.RawIOBase):
            buffer = io.BufferedWriter(raw)
            made = io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, made)


def _run() -> None:
    """Version and console come before Typer and Trio are imported: they cost a fifth of a second."""
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
