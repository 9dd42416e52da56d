"""Clusters by name: brought up, looked into and changed from any terminal, and taken down."""
