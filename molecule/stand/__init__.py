"""What the scenarios stand on: targets made of containers, and a terminal for the operator's commands."""
