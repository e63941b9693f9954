"""The estimators: they validate, assemble and store."""
