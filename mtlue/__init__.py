"""MTL-UE: unlearnable examples for multi-task learning from one generator."""
