"""A fleet of machines over NATS: its directory, leases, requests to any of them. Rules: `protocol.fleet`."""
