"""Images, file headers, video, data sets and synthetic data."""
