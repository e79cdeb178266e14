"""The web page: what a visit, a fit and the limits are, apart from `pages`, which needs NiceGUI."""
