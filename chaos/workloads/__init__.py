"""What runs on a device while faults happen, and judges every answer it gets."""
