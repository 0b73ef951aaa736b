"""POWER: the Protected Execution Facility, its ultravisor and the KVM that lives with it."""
