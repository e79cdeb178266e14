"""The web application: sessions, models, one fit job and HTTP routes; `pages` holds what needs NiceGUI."""
