"""A repository that grows and is built in a container: git's checksums and a compiler's result."""
