"""What each command of `nestbed` does. Heavy modules are imported where a command needs them, not here.

What the commands share:

  speak        data goes to standard output, talk to standard error
  options      arguments that several commands have
  metrics      an exporter beside a run

The commands themselves: compare, report, calls, explain, console, image, measure, replay, scenario,
architectures.
"""
