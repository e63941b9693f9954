"""Tasks: what a user passes, read, split into support and query, and stacked."""
