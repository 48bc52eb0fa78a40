"""What runs as its own OS process beside a manager, or on every node. A module here is a line in `ps`."""
