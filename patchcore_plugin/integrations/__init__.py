"""Adapters to the frameworks that people already work in; import the one that you need."""
