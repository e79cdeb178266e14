"""A fitted model over many images: runner, results, pictures, explanations and the folder watcher."""
