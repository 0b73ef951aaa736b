"""Deployments: the same actors in processes that live on until somebody ends them.

settings   DEPLOYMENT.toml, checked at the door
parts      which processes there are, and which of them an instance of a platform runs
place      the runtime directory: sockets, epochs, targets of Prometheus
process    what every process has: a lifeline to its supervisor, a fence, a control socket, metrics
machine    the part that holds a Trusted Entity and L0's KVM: it *is* the machine
hosts      the part that holds an L1 and what runs on it
load       the part that drives them, and keeps account of every operation
supervise  the foreground: starts the parts, keeps them, takes them down in order
"""
