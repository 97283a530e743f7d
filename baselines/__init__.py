"""The single-task attacks, lifted to many tasks, and the loop that crafts them."""
