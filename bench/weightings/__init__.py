"""How an exploiter balances the losses of the tasks: one module per rule."""
