"""What is done to the installation: each fault inflicts itself and proves that it landed."""
