"""Redis with an append-only file in a container, and clients that judge every answer."""
