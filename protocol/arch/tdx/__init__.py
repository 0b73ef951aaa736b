"""Intel TDX: the TDX module, table-driven, its emulation for a guest host, and its console."""
