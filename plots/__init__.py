"""Images of schedules and runs, by matplotlib; nothing of it is loaded until one is drawn."""
