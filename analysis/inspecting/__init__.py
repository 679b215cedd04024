"""What a table holds, what it allows, what it lacks and which rows are suspicious."""
