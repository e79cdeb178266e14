"""Adapters to other frameworks. Import only the adapter that you need."""
