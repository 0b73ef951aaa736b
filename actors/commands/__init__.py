"""What each command of `nestbed` does. Heavy modules are imported where a command needs them, not here.

speak        data goes to standard output, talk to standard error
options      arguments that several commands share
compare      run a scenario on all paths and say what it costs
calls        call tables
console      the keyboard of a secure host, listed here, served by actors.console
replay       transcripts, asked again
scenario     scenario files: check, list, show
architectures
"""
