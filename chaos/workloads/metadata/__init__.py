"""Metadata churn on ext4 against a model of the tree."""
