"""flyweight makes the smallest file that still does a neural network's job, and proves it."""
