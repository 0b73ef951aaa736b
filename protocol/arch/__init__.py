"""The architectures, one folder each; none imports another."""
