"""The Trio half of nestbed: thin shells around the pure protocol.

Everything that the pure half may not touch lives here: mailboxes, sockets, clocks, files, metrics, log lines.

  runtime     mailboxes, actors, supervision, framed links, transports
  scenarios   ready-made scenarios, one TOML file each
"""
