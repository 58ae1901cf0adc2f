"""What people say: the label book, queues, splits."""
