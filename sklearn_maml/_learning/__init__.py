"""How an adaptation rule is learned from the training tasks."""
