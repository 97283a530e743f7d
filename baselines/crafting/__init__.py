"""What attacks share: the crafting loop, objectives, and forms of the noise."""
