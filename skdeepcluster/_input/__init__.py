"""What X may be, and how it becomes batches of images."""
