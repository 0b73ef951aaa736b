"""IBM Z Secure Execution: the Ultravisor and what stands on it."""
