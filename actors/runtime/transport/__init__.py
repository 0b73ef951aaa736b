"""What lies between two ports. All carry the same messages; only memory may carry them unpacked."""
