"""What a run is to be, fixed before it starts: the scenario, and whether it fits the machine it asks for."""
