"""Memory of an emulated machine: where bytes live (`store`), frames (`physical`), free frames (`pool`).

The memory of a guest host is a slot map onto frames of the level below: `protocol.nesting.guest_host`.
"""
