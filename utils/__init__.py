"""What the commands share; nothing here imports a command."""
