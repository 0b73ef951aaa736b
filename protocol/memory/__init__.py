"""Memory of an emulated machine: bytes (`store`, `physical`), frames given to a guest host (`slots`), free frames (`pool`)."""
