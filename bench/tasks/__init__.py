"""What networks are asked about an image: heads, losses, metrics and floors."""
