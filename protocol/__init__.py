"""The pure half of nestbed: bytes and events in, effects out. No clock, no socket, no task.

Where the words live:

  effects     what a handler yields, and how a step is driven
  level       one Trusted Entity as a host meets it: call, enter, access
  calls       the call table: one row per ABI call, everything else is derived from it
  ledger      exact counts, per phase
  memory      bytes, page states, slot maps, frame pools
  nesting     what every emulation of a Trusted Entity for a guest host needs
  tracking    the books that a level keeps about its guest hosts
  hosting     the other way: ask the host below to run the secure guest
  arch        one folder per architecture; the core names none of them
"""
